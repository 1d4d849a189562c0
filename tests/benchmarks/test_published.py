"""Data of published protocols, in their authors' form, become folders of concepts that the bench takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.modular.published import MIX_OF_SHOW, SETTINGS, concepts_of, main
from benchmarks.modular.worlds.folder import read_folder
from benchmarks.modular.worlds.sentences import Sentences
from blocklora_jax.errors import UserError
from train.concept.images import read_pictures

SETTINGS_OF_TRAINING = {"basis": None, "assignment": "layer", "token_side": 0.0, "token_start": "noun",
                        "negatives_from": "nouns"}  # fmt: skip


def picture(path, seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (20, 16, 3) if mode == "RGB" else (20, 16)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def custom(tmp_path):
    """Two concepts of CustomConcept101, of which one has pictures, and a person."""
    data = tmp_path / "customconcept101"
    (data / "prompts").mkdir(parents=True)
    entries = []
    for name, noun, prompts in (
        ("pet_dog1", "dog", "dog"),
        ("person_1", "person", "person"),
        ("toy_gnome", "toy", "dog"),
    ):
        entries.append({
            "instance_prompt": f"photo of a <new1> {noun}", "class_prompt": noun,
            "instance_data_dir": f"./benchmark_dataset/{name}", "prompt_filename": f"prompts/{prompts}.txt",
        })  # fmt: skip
    (data / "dataset.json").write_text(json.dumps(entries))
    (data / "prompts" / "dog.txt").write_text("Photo of a {}.\n a sleeping {}.\n")
    (data / "prompts" / "person.txt").write_text("photo of a {}. \n\n{} in a kitchen. ")
    for seed, name in enumerate(("pet_dog1", "person_1")):
        picture(data / "benchmark_dataset" / name / "0.jpeg", seed)
        picture(data / "benchmark_dataset" / name / "1.png", seed)
    return data


@pytest.fixture
def mixed(tmp_path):
    """One person of Mix-of-Show, with captions and masks, and one for whom there is no class."""
    data, root = tmp_path / "Mix-of-Show", "datasets/data/characters/real/Harry_Potter"
    configs = data / "datasets" / "data_cfgs" / "MixofShow" / "single-concept" / "characters" / "real"
    configs.mkdir(parents=True)
    entry = {"instance_prompt": "<TOK>", "instance_data_dir": f"{root}/image", "caption_dir": f"{root}/caption"}
    (configs / "potter.json").write_text(json.dumps([{**entry, "mask_dir": f"{root}/mask"}]))
    (configs / "nobody.json").write_text(json.dumps([{**entry, "instance_data_dir": "datasets/data/nobody"}]))
    picture(data / root / "image" / "1.png")
    picture(data / root / "image" / "2.png")
    picture(data / root / "mask" / "1.png", mode="L")
    (data / root / "caption").mkdir()
    (data / root / "caption" / "1.txt").write_text("a <TOK> wearing  glasses\nmore\n")
    prompts = data / "datasets" / "benchmark_prompts" / "single-concept" / "characters"
    prompts.mkdir(parents=True)
    (prompts / "test_character.txt").write_text(
        "A photo of <TOK> on the beach\nA <TOK>, in the forest\n\nA smiling <TOK>\n"
    )
    return data


def test_custom_concept_101_becomes_folders_with_its_prompts(custom, tmp_path, capsys):
    out = tmp_path / "concepts"
    main(["custom_concept_101", "--data", str(custom), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "1 concepts have no pictures, and are left out: toy_gnome" in printed
    assert f"--concepts {out} " in printed and SETTINGS["custom_concept_101"] in printed
    person, dog = read_folder(out, SETTINGS_OF_TRAINING)
    assert (person.name, person.kind, person.class_noun) == ("person_1", "person", "person")
    assert (dog.name, dog.kind, dog.class_noun) == ("pet_dog1", "object", "dog")
    prompts = Sentences.read().concept_prompts(person, 2)
    assert [p.text for p in prompts] == ["photo of a <person_1> person.", "<person_1> person in a kitchen."]
    assert "<" not in prompts[1].plain
    with pytest.raises(UserError, match=r"pet_dog1 has 2 prompts: give --prompts 2"):
        Sentences.read().concept_prompts(dog, 3)
    for name in ("0.jpeg", "1.png"):
        given = custom / "benchmark_dataset" / "pet_dog1" / name
        assert (out / "pet_dog1" / name).read_bytes() == given.read_bytes()


def test_mix_of_show_becomes_folders_with_captions_and_masks(mixed, tmp_path):
    out = tmp_path / "concepts"
    main(["mix_of_show", "--data", str(mixed), "--out", str(out), "--concepts", "potter"])
    [potter] = read_folder(out, SETTINGS_OF_TRAINING)
    assert (potter.kind, potter.class_noun) == ("person", "man")
    first, second = read_pictures(out / "potter")
    assert first.caption == "a <potter> man wearing glasses" and second.caption is None
    assert first.mask is not None and second.mask is None
    texts = [p.text for p in Sentences.read().concept_prompts(potter, 3)]
    assert texts[1:] == ["A <potter> man, in the forest", "A smiling <potter> man"]


def test_what_is_missing_is_named_and_nothing_is_written(custom, mixed, tmp_path):
    out = tmp_path / "concepts"
    for protocol, data, flags, words in (
        ("custom_concept_101", tmp_path / "nothing", [], "dataset.json"),
        ("custom_concept_101", custom, ["--concepts", "toy_gnome"], "no pictures of toy_gnome"),
        (
            "custom_concept_101",
            custom,
            ["--concepts", "cat"],
            "cat is not among: person_1, pet_dog1, toy_gnome",
        ),
        ("mix_of_show", custom, [], "is no checkout of Mix-of-Show"),
    ):
        with pytest.raises(UserError, match=words):
            main([protocol, "--data", str(data), "--out", str(out), *flags])
    picture(mixed / "datasets" / "data" / "nobody" / "1.png")
    with pytest.raises(UserError, match="do not say what nobody is"):
        main(["mix_of_show", "--data", str(mixed), "--out", str(out)])
    (custom / "prompts" / "dog.txt").unlink()
    with pytest.raises(UserError, match=r"dog\.txt is not there"):
        main(["custom_concept_101", "--data", str(custom), "--out", str(out)])
    (custom / "prompts" / "dog.txt").write_bytes(b"a \xff dog")
    with pytest.raises(UserError, match=r"dog\.txt is not UTF-8 text"):
        main(["custom_concept_101", "--data", str(custom), "--out", str(out)])
    entries = json.loads((custom / "dataset.json").read_text())
    (custom / "dataset.json").write_text("7")
    with pytest.raises(UserError, match=r"dataset\.json must hold a list of concepts"):
        main(["custom_concept_101", "--data", str(custom), "--out", str(out)])
    entries[0]["instance_data_dir"] = "../../elsewhere"
    (custom / "dataset.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="outside of it"):
        main(["custom_concept_101", "--data", str(custom), "--out", str(out)])
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match="is there already"):
        main(["mix_of_show", "--data", str(mixed), "--out", str(out), "--concepts", "potter"])
    assert not list(out.iterdir())


def test_malformed_prompts_of_a_concept_are_named(custom, tmp_path):
    main(["custom_concept_101", "--data", str(custom), "--out", str(tmp_path / "c"), "--concepts", "person_1"])
    (tmp_path / "c" / "person_1" / "prompts.yaml").write_text("prompts: [a photo]\n")
    [person] = read_folder(tmp_path / "c", SETTINGS_OF_TRAINING)
    with pytest.raises(UserError, match=r"prompts\.yaml must have a list"):
        Sentences.read().concept_prompts(person, 1)


def test_every_concept_of_mix_of_show_has_a_class(mixed):
    named = {concept.name for concept in concepts_of("mix_of_show", mixed)}
    assert named == {"potter", "nobody"} and "nobody" not in MIX_OF_SHOW
    assert all(noun and kind in ("person", "object", "scene") for kind, noun, _ in MIX_OF_SHOW.values())
