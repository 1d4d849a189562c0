"""`python -m merge registry` and `plan`: the printed text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from merge_builders import make_adapter

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_yaml_mapping
from blocklora_jax.registry.store import read_registry
from merge.cli.main import main
from merge.cli.plan import _POCKET, _USUAL_RANK, PlanOptions, describe_plan, plan_widths
from train.concept.config_files import find_config
from train.concept.settings.adapter import AdapterSettings


def registry(*args: object) -> None:
    main(["registry", *map(str, args)])


def test_claims_are_given_listed_and_dropped(tmp_path, capsys):
    where = tmp_path / "shared"
    registry("new", where, "--blocks", 4)
    registry("add", where, "ada", "--owner", "me@x.org")
    assert f"train it with --token '<ada>' --registry {where}" in capsys.readouterr().out
    registry("add", where, "rex", "--token", "<dog>", "--slot", 3, 1)
    registry("list", where)
    text = capsys.readouterr().out
    assert "4 slots of any model, axis 'in', seed 0" in text
    assert re.search(r"^0 +ada +<ada> +\d{4}-\d\d-\d\d +me@x.org$", text, re.MULTILINE)
    assert re.search(r"^1, 3 +rex +<dog> +\d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert "free: 2\n" in text
    registry("drop", where, "rex")
    assert "free: 1, 2, 3" in capsys.readouterr().out
    assert [entry.name for entry in read_registry(where).entries] == ["ada"]


def test_more_concepts_than_slots_share_them_and_conflicts_are_named(tmp_path, capsys):
    where = tmp_path / "r.json"
    registry("new", where, "--blocks", 2, "--per-slot", 2)
    for name in ("ada", "bo", "cy"):
        registry("add", where, name)
    registry("add", where, "dee", "--apart-from", "ada")
    assert [entry.slots for entry in read_registry(where).entries] == [(0,), (1,), (0,), (1,)]
    registry("list", where)
    assert "up to 2 concepts own a slot together" in capsys.readouterr().out
    make_adapter("cy", (0,), Partition(num_blocks=2)).save(tmp_path / "cy.safetensors")
    registry("check", where, tmp_path / "cy.safetensors", "--together", "ada", "bo")
    assert capsys.readouterr().out == "no collisions\n"
    with pytest.raises(SystemExit):
        registry("check", where, "--together", "ada", "bo", "cy")
    assert "'ada' and 'cy' both own slot 0: they cannot be merged with each other" in capsys.readouterr().out
    with pytest.raises(UserError, match="fewer than 1 free slots"):
        registry("add", where, "eve")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slot", 0, "--apart-from", "ada"], "'ada' owns slot 0 too, so 'bo' could not be merged with it"),
        (["--draw", "name", "--apart-from", "ada"], "'ada' owns slot 0 too, so 'bo' could not be merged with it"),
        (["--slot", 1, "--apart-from", "adda"], "the registry has no entry 'adda'; it has ada"),
        (["--draw", "name", "--apart-from", "adda"], "the registry has no entry 'adda'; it has ada"),
        (["--apart-from", "adda"], "the registry has no entry 'adda'; it has ada"),
        (["--slot", 1, "--count", 2], "--count is for free slots"),
        (["--draw", "name", "--count", 2], "--count is for free slots"),
        (["--draw", "name", "--slot", 1], "--slot and --draw both choose the slots"),
    ],
)
def test_no_flag_of_a_claim_is_ignored(flags, message, tmp_path):
    where = tmp_path / "r.json"
    registry("new", where, "--blocks", 1 if "name" in flags else 2, "--per-slot", 2)
    registry("add", where, "ada")
    with pytest.raises(UserError, match=message):
        registry("add", where, "bo", *flags)
    assert [entry.name for entry in read_registry(where).entries] == ["ada"]


def test_a_new_registry_knows_its_model(tiny_folder, tiny_sd, tmp_path):
    registry("new", tmp_path / "r.json", "--model", tiny_folder, "--axis", "out", "--partition-seed", 3)
    new_registry = read_registry(tmp_path / "r.json")
    assert (new_registry.base_name, new_registry.base_digest) == (str(tiny_folder), params_digest(tiny_sd.params))
    assert new_registry.partition == Partition(num_blocks=16, axis="out", seed=3)


def test_check_compares_files_with_their_claims(tmp_path, capsys):
    where = tmp_path / "r.json"
    registry("new", where, "--blocks", 4)
    for name in ("ada", "bob"):
        registry("add", where, name)
    files = {
        "ada": make_adapter("ada", (0,)), "wrong": make_adapter("bob", (2,)), "bobs": make_adapter("ada", (1,)),
        "nobody": make_adapter("cyd", (1,)), "cut": make_adapter("ada", (0,), Partition(num_blocks=2)),
    }  # fmt: skip
    for name, adapter in files.items():
        adapter.save(tmp_path / f"{name}.safetensors")

    def check(*names: str) -> tuple[int, str]:
        capsys.readouterr()
        code = 0
        try:
            registry("check", where, *(tmp_path / f"{name}.safetensors" for name in names))
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    assert check("ada") == (0, "no collisions\n")
    code, text = check("wrong", "bobs", "nobody", "cut", "missing")
    assert code == 1
    assert "owns slot 2, but 'bob' registered slot 1" in text
    assert "bobs.safetensors: slot 1 is registered by 'bob'" in text
    assert "'cyd' is not registered, and owns slot 1" in text
    assert "nobody.safetensors: slot 1 is registered by 'bob'" in text
    assert "the partition is 2 blocks of features" in text
    assert "there is no adapter file" in text
    assert text.endswith("7 problems\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["registry", "ad"], "unknown command registry 'ad': choose new, add, list, check, drop, plan"),
        (["registry", "list", "nowhere.json"], "there is no registry nowhere.json"),
        (["plan", "--concepts", "0"], "--concepts must be at least 1"),
        (["plan", "--concepts", "600"], "608 blocks are more than the narrowest layer has features (512)"),
        (["registry", "plan", "--concepts", "4", "--layers", "all"], "unknown layer set 'all'"),
    ],
)
def test_bad_input_is_one_line(args, text, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(lambda: main(args))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert text in error
    assert error.count("\n") == 1


def test_the_plan_states_the_sizes_of_blocks_and_usable_ranks(capsys):
    main(["plan", "--concepts", "15", "--rank", "4", "--features"])
    text = capsys.readouterr().out
    assert "--blocks 15 --axis in" in text
    assert re.search(r"512 x 192 +8 +34-35 x 192 +34 ", text)
    assert "Narrow" not in text
    main(["registry", "plan", "--concepts", "40", "--features"])
    text = capsys.readouterr().out
    assert "Rank 16 is more than some blocks can use (512 x 192: 12)" in text
    assert "21 concepts would have 24" in text


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (["15"], ["with the defaults (K = 64", "8 x 192 ", " 180,224", "about 0.18 MB"]),
        (["120"], ["with --config token_side_128 (K = 128", "4 x 192 ", "about 0.09 MB"]),
        (["60", "--slots", "2"], ["with --config token_side_128 --rank 8 (K = 128", "8 x 192 ", "bytes at rank 8"]),
        (["20", "--slots", "2", "--rank", "64"], ["with --rank 64 (K = 64", "add WHERE NAME --count 2, or"]),
        (["20", "--rank", "8"], ["with the defaults (K = 64"]),
        (["20", "--token-vectors", "4"], ["with --token-vectors 4 (K = 64"]),
        (
            ["300"],
            [
                "train.basis --extend pocket --blocks 304 --out", "--basis basis.safetensors --blocks 304 --rank 1",
                "1-2 x 192 ", "Narrow: a concept owns 1 of 512",
            ],
        ),
        (["9", "--model", "sd15"], ["train.basis --model MODEL --blocks 16", "--rank 16 --model MODEL", "48 x 1280 "]),
        (["9", "--layers", "attention"], ["--config feature_blocks --blocks 9 --axis in --layers attention (K"]),
        (
            ["20", "--layers", "attention", "--slots", "2", "--rank", "4"],
            ["--config feature_blocks --blocks 40 --axis in --rank 4 --layers attention (K", "--count 2, or"],
        ),
        (["9", "--features", "--rank", "16"], ["--config feature_blocks --blocks 9 --axis in (K"]),
        (["9", "--axis", "grid"], ["--config feature_blocks --blocks 9"]),
    ],
)  # fmt: skip
def test_the_plan_has_blocks_of_text_where_all_layers_read_text(args, lines, capsys):
    # An adapter in a basis has all 512 rows in its file: 8 layers x rank 8 x (512 + 192) x 4 bytes.
    main(["plan", "--concepts", *args])
    text = capsys.readouterr().out
    assert [line for line in lines if line not in text] == []


def test_the_plan_knows_the_ranks_of_the_configurations():
    assert {"": AdapterSettings().rank, "--config token_side_128": _rank_in("token_side_128")} == dict(_POCKET.values())
    assert _rank_in("feature_blocks") == _USUAL_RANK


def _rank_in(config: str) -> int:
    return read_yaml_mapping(find_config(Path(config)))["rank"]


@pytest.mark.parametrize("axis", ["in", "out", "grid"])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_planned_sizes_are_those_of_files(axis, slots, tmp_path):
    partition = Partition(num_blocks=7, axis=axis)
    layers = {"unet": {f"l{i}/to_k": (24, 16) for i in range(4)} | {"m/proj_in": (16, 19)}}
    widths = plan_widths(layers, 7, axis, slots)
    assert [(w.shape, w.layers) for w in widths] == [((24, 16), 4), ((16, 19), 1)]
    owned = set()
    for first in range(8 - slots):
        adapter = make_adapter("ada", tuple(range(first, first + slots)), partition, rank=2, vectors=0, layers=layers)
        for layer, shape in layers["unet"].items():
            rows, columns = adapter.info.support("unet", layer, shape)
            width = next(w for w in widths if w.shape == shape)
            assert width.rows[0] <= len(rows) <= width.rows[1]
            assert width.columns[0] <= len(columns) <= width.columns[1]
            assert width.rank_limit <= min(len(rows), len(columns))
            owned.add(len(rows) * len(columns))
        adapter.save(tmp_path / "a.safetensors")
        size = (tmp_path / "a.safetensors").stat().st_size
        header = int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") + 8
        assert size - header <= 4 * sum(w.numbers(2) for w in widths)
    assert len(owned) > 1


def test_a_plan_of_the_tiny_widths_fits_the_saved_file(tmp_path):
    layers = {"unet": {"a/attn2/to_k": (24, 16)}}
    lines = describe_plan(PlanOptions(concepts=4, rank=2, features=True), layers)
    assert "    24 x 16       1             6 x 16           6               176" in "\n".join(lines)
    adapter = make_adapter("ada", (0,), rank=2, vectors=0, layers=layers)
    adapter.save(tmp_path / "a.safetensors")
    header = int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") + 8
    assert (tmp_path / "a.safetensors").stat().st_size - header == 176


def test_plan_refuses_more_blocks_than_features():
    with pytest.raises(UserError, match=r"narrowest layer has features \(16\)"):
        plan_widths({"unet": {"a": (24, 16)}}, 17, "out")
    assert plan_widths({"unet": {"a": (24, 16)}}, 17, "in")[0].rank_limit == 1
