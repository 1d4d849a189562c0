"""`python -m train.concepts`: many concepts in one program, each trained as if it were alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from concept_builders import as_flags, settings, write_pictures
from safetensors.numpy import load_file

import train.concept.run
import train.concepts
from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from train.concept.common_settings import check_equal
from train.concept.config import ConceptConfig
from train.concept.slots import check_apart, give_slots
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions

OWN = ("images", "token", "class_noun", "out", "slot")
# Concepts with different classes, numbers of pictures, and seeds.
ENTRIES = {
    "ada": {"images": "a", "class_noun": "man", "seed": 1},
    "rex": {"images": "b", "class_noun": "dog", "token": "<my-rex>", "seed": 2},
    "bo": {"images": "a", "class_noun": "owl", "slot": 0},
}


def common_flags(model: Path, **changes) -> list[str]:
    values = {"model": model, "cpu": True, "steps": 20, "save_every": 20, "layers": "cross_kv+text_encoder", **changes}
    return as_flags({k: v for k, v in settings(**values).items() if k not in OWN})


@pytest.fixture(scope="module")
def entries_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concepts")
    write_pictures(folder / "a", 3)
    write_pictures(folder / "b", 5)
    (folder / "concepts.yaml").write_text(yaml.safe_dump(ENTRIES, sort_keys=False))
    return folder / "concepts.yaml"


def options_for(path: Path, out: Path = Path("run"), **changes) -> ConceptsOptions:
    return ConceptsOptions(concepts=path, out=out, **changes)


@pytest.fixture(scope="module")
def together(entries_file, tiny_folder, tmp_path_factory):
    """The run folder of three concepts in groups of two."""
    out = tmp_path_factory.mktemp("together")
    flags = ["--concepts", str(entries_file), "--out", str(out), "--at-once", "2", *common_flags(tiny_folder)]
    train.concepts.main(flags)
    return out


@pytest.mark.parametrize("name", ["ada", "rex"])
def test_a_concept_in_a_group_is_the_one_trained_alone(together, entries_file, tiny_folder, tmp_path, name):
    actual = Adapter.load(together / name / "adapter.safetensors")
    configs = read_concepts(options_for(entries_file, tmp_path), common_flags(tiny_folder))
    config = next(c for c in give_slots(configs) if c.out.name == name)
    alone = Adapter.load(train.concept.run.train_concept(config, "cpu"))
    assert actual.info.slots == alone.info.slots
    for x, y in zip(jax.tree.leaves(actual.lora), jax.tree.leaves(alone.lora), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())
    for token, vectors in alone.tokens.items():
        np.testing.assert_allclose(actual.tokens[token], vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())


def test_a_run_that_was_stopped_between_groups_is_continued(together, entries_file, tiny_folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(together, out)
    shutil.rmtree(out / "groups/001")
    shutil.rmtree(out / "bo")
    flags = ["--concepts", str(entries_file), "--out", str(out), "--at-once", "2", *common_flags(tiny_folder)]
    train.concepts.main([*flags, "--resume"])
    actual, expected = (folder / "bo" / "adapter.safetensors" for folder in (out, together))
    assert load_file(actual).keys() == load_file(expected).keys()
    for name, tensor in load_file(expected).items():
        np.testing.assert_array_equal(load_file(actual)[name], tensor)


def test_every_concept_gets_its_own_folder_and_slot(together):
    adapters = {name: Adapter.load(together / name / "adapter.safetensors") for name in ENTRIES}
    assert {name: a.info.slots for name, a in adapters.items()} == {"ada": (1,), "rex": (2,), "bo": (0,)}
    assert list(adapters["rex"].tokens) == ["<my-rex>"]
    assert all(list((together / name / "previews").glob("*.png")) for name in ENTRIES)
    assert sorted(path.name for path in (together / "groups").iterdir()) == ["000", "001"]


def test_the_metrics_include_the_loss_of_each_concept(together):
    last = (together / "groups" / "000" / "metrics.jsonl").read_text().splitlines()[-1]
    assert "diffusion_loss/ada" in last
    assert "diffusion_loss/my-rex" in last


def test_a_folder_of_folders_names_concepts_too(tmp_path, tiny_folder):
    write_pictures(tmp_path / "bo")
    (tmp_path / "bo" / "concept.yaml").write_text("class_noun: dog\nkind: object\n")
    (config,) = read_concepts(options_for(tmp_path), common_flags(tiny_folder))
    assert (config.token, config.class_noun, config.images) == ("<bo>", "dog", tmp_path / "bo")
    assert config.out == Path("run/bo")


def test_more_concepts_than_slots_are_refused():
    values = settings(slot=None, blocks=2)
    configs = [ConceptConfig.from_settings(**values | {"token": f"<c{i}>"}) for i in range(3)]
    with pytest.raises(UserError, match="3 concepts do not fit in 2 slots: use --blocks 3 or more"):
        give_slots(configs)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"token": "<ada>", "slot": (2,)}, "ada and rex both have the token <ada> and could never be merged"),
        ({"token": "<rex>", "slot": (1,)}, "ada and rex both have slot 1 and could never be merged: give one of them"),
        ({"token": "<rex>", "slot": (3, 1, 0)}, "both have slot 0, 1 "),
    ],
)
def test_concepts_that_can_never_be_merged_are_refused(other, message):
    one = ConceptConfig.from_settings(**settings(slot=(0, 1), out=Path("run/ada")))
    with pytest.raises(UserError, match=message):
        check_apart([one, ConceptConfig.from_settings(**settings(out=Path("run/rex"), **other))])


def test_without_slots_only_the_token_counts():
    values = settings(blocks=0, slot=None)
    check_apart([ConceptConfig.from_settings(**values), ConceptConfig.from_settings(**values | {"token": "<rex>"})])


@pytest.mark.parametrize(
    ("entry", "message"),
    [("slot: 1", "ada and rex both have slot 1"), ("token: <ada>", "ada and rex both have the token <ada>")],
)
def test_unmergeable_concepts_are_refused_before_anything_is_loaded_or_written(tmp_path, entry, message):
    text = "ada: {class_noun: man, slot: 1}\nrex: {class_noun: dog, " + entry + "}"
    (tmp_path / "concepts.yaml").write_text(text)
    flags = ["--concepts", str(tmp_path / "concepts.yaml"), "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match=message):
        train.concepts.main([*flags, *common_flags(tmp_path / "no-model")])
    assert not (tmp_path / "run").exists()


def test_concepts_of_one_slot_in_a_registry_are_refused(tmp_path):
    partition = {"num_blocks": 4, "axis": "in", "seed": 0}
    names = [{"name": n, "token": f"<{n}>", "slots": [slot]} for n, slot in (("ada", 1), ("rex", 1))]
    claims = {"blocklora_registry": 1, "base_name": "", "base_digest": "", "partition": partition, "entries": names}
    (tmp_path / "registry.json").write_text(json.dumps(claims))
    (tmp_path / "concepts.yaml").write_text("ada: {class_noun: man}\nrex: {class_noun: dog}")
    flags = ["--concepts", str(tmp_path / "concepts.yaml"), "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="'ada' and 'rex' collide in the registry"):
        train.concepts.main([*flags, *common_flags(tmp_path, registry=tmp_path / "registry.json")])


def test_hidden_folders_are_no_concepts(tmp_path, tiny_folder):
    write_pictures(tmp_path / "bo")
    (tmp_path / "bo" / "concept.yaml").write_text("class_noun: dog")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert len(read_concepts(options_for(tmp_path), common_flags(tiny_folder))) == 1


def test_settings_of_the_program_must_be_equal():
    configs = [
        ConceptConfig.from_settings(**settings()),
        ConceptConfig.from_settings(**settings(token="<ben>", rank=4)),
    ]
    with pytest.raises(UserError, match=r"share these settings: rank \(2 for <ada>, 4 for <ben>\)"):
        check_equal(configs)


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "no noun": ("ada: {images: a}", "ada needs a class_noun"),
        "another rank": (
            "ada: {class_noun: man, rank: 3}",
            "ada sets 'rank', which is the same for all concepts: give it as a flag",
        ),
        "no mapping": ("ada: man", "ada must be a mapping of settings"),
        "empty": ("{}", "names no concepts"),
        "malformed": ("ada: {", "is not valid YAML"),
        "absolute": ("/tmp/escaped: {class_noun: man}", "concept's name '/tmp/escaped' cannot be the name of a file"),
        "above": ("../../escaped: {class_noun: man}", "cannot be the name of a file: it has '/' in it"),
        "backslash": ("'a\\b': {class_noun: man, token: <a>}", "cannot be the name of a file"),
        "dots": ("'..': {class_noun: man, token: <a>}", "begins with a dot"),
        "nameless": ("'': {class_noun: man, token: <a>}", "is empty"),
        "escape": ('"a\\eb": {class_noun: man, token: <a>}', r"'a\\x1bb' cannot be .* control characters"),
        "device": ("nul: {class_noun: man}", "a device on Windows"),
        "case": ("Ada: {class_noun: man, token: <a>}\nada: {class_noun: man}", "'Ada' and 'ada' would be one folder"),
        "groups": ("Groups: {class_noun: man, token: <a>}", "cannot be named 'Groups': --out has a folder groups/"),
        "a folder": ("ada: {class_noun: man, out: elsewhere}", "ada sets 'out', but its folder is run/ada"),
    }.values(),
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, tiny_folder, text, message):
    (tmp_path / "concepts.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_concepts(options_for(tmp_path / "concepts.yaml"), common_flags(tiny_folder))


def test_a_folder_without_settings_is_refused(tmp_path, tiny_folder):
    write_pictures(tmp_path / "bo")
    with pytest.raises(UserError, match=r"bo has no concept\.yaml: write `class_noun: dog`"):
        read_concepts(options_for(tmp_path), common_flags(tiny_folder))
