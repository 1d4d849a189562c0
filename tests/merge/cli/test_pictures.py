"""Grids of pictures: several of each prompt, strips over weights, comparisons, and the record in the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from blocklora_jax import Adapter
from blocklora_jax.command_line.runner import run
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.cli.options import MergeOptions
from merge.cli.picture_cells import plan_grid

PROMPTS = ("a photo of <ada> man", "a photo of <bob> dog")


@pytest.fixture
def adapters(tiny_sd):
    return [
        random_adapter(name, tiny_sd.params, slots=(i,), layers="cross_kv") for i, name in enumerate(("ada", "bob"))
    ]


@pytest.fixture
def files(adapters, tmp_path):
    paths = [tmp_path / f"{adapter.name}.safetensors" for adapter in adapters]
    for adapter, path in zip(adapters, paths, strict=True):
        adapter.save(path)
    return [str(path) for path in paths]


def plan(adapters, **options):
    return plan_grid(MergeOptions(files=(), prompt=PROMPTS, **options), adapters)


def draw(files, folder, out, *flags: str) -> tuple[Image.Image, dict]:
    """The picture that the command writes, and its record."""
    main([*files, "--model", str(folder), "--out", str(out), "--steps", "1", "--seed", "3", *flags])
    picture = Image.open(out)
    return picture, json.loads(picture.text["blocklora"])


def test_more_pictures_of_a_prompt_stand_beside_the_first_which_keeps_its_noise(adapters):
    once, thrice = plan(adapters), plan(adapters, count=3)
    assert [(cell.prompt, cell.index) for cell in once.cells] == [(PROMPTS[0], 0), (PROMPTS[1], 1)]
    assert thrice.columns == 3
    assert [cell.index for cell in thrice.cells] == [0, 2, 4, 1, 3, 5]
    assert {cell.prompt for cell in thrice.cells[:3]} == {PROMPTS[0]}


def test_a_strip_multiplies_the_weights_and_keeps_the_noise(adapters):
    grid = plan(adapters, weights=(1.0, 0.5), strip_weights=(0.0, 0.5, 1.0))
    assert grid.columns == 3
    assert [cell.variant.weights for cell in grid.cells[:3]] == [(0, 0), (0.5, 0.25), (1, 0.5)]
    assert [cell.index for cell in grid.cells] == [0, 0, 0, 1, 1, 1]
    assert grid.cells[1].caption == f"weight 0.5: {PROMPTS[0]}"


def test_a_comparison_shows_each_called_concept_alone_and_merged_from_the_same_noise(adapters):
    options = MergeOptions(files=(), prompt=("<ada> man and <bob> dog",), weights=(1.0, 0.5), compare=True)
    cells = plan_grid(options, adapters).cells
    # A model with one concept does not know the other token, so the class noun replaces it, or the whole trigger.
    noun = adapters[0].info.class_noun
    assert [cell.prompt for cell in cells] == [
        f"<ada> man and a {noun} dog", options.prompt[0], f"a {noun} and <bob> dog", options.prompt[0]
    ]  # fmt: skip
    assert [cell.variant.adapters for cell in cells] == [(0,), (0, 1), (1,), (0, 1)]
    assert [cell.variant.weights for cell in cells] == [(1.0,), (1.0, 0.5), (0.5,), (1.0, 0.5)]
    assert {cell.index for cell in cells} == {0}


def test_the_record_says_how_to_make_a_picture_again(files, tiny_folder, tiny_sd, tmp_path):
    flags = ["--count", "2", "--height", "24", "--width", "32", "--sampler", "euler_a", "--spacing", "karras"]
    flags += ["--guidance-rescale", "0.5", "--clip-skip", "1", "--weights", "1", "0.5", "--prompt", *PROMPTS]
    picture, record = draw(files, tiny_folder, tmp_path / "p.png", *flags)
    assert str(tmp_path) not in json.dumps(record)
    assert [adapter["name"] for adapter in record["adapters"]] == ["ada", "bob"]
    assert all(len(adapter["sha256"]) == 64 for adapter in record["adapters"])
    # The third picture, from the record and the adapter files alone.
    third = record["pictures"][2]
    model = tiny_sd.with_adapters([Adapter.load(file) for file in files], list(third["weights"].values()))
    size = {side: record[side] for side in ("height", "width")}
    again = model.generate(
        [third["prompt"]], seed=record["seed"], indices=[third["index"]], **size, **record["sampling"]
    )
    scale = 256 // 24
    left, top = 4, picture.height // 2 + 2
    drawn = np.asarray(picture)[top : top + 24 * scale, left : left + 32 * scale].astype(int)
    expected = Image.fromarray(again[0]).resize((32 * scale, 24 * scale), Image.Resampling.LANCZOS)
    # Two levels of 255: another batch size, and merging with NumPy instead of XLA.
    assert np.abs(drawn - np.asarray(expected)).max() <= 2


def test_strips_and_comparisons_are_drawn_with_each_model(files, tiny_folder, tiny_sd, tmp_path):
    flags = ["--sampler", "ddim", "--prompt", PROMPTS[0]]
    strip, record = draw(files, tiny_folder, tmp_path / "strip.png", *flags, "--strip-weights", "0", "1")
    assert [cell["weights"] for cell in record["pictures"]] == [{"ada": 0, "bob": 0}, {"ada": 1, "bob": 1}]
    none, full = (np.asarray(strip)[4:260, left : left + 256].astype(int) for left in (4, 264))
    assert np.abs(none - full).max() > 5
    pair, record = draw(files, tiny_folder, tmp_path / "pair.png", *flags, "--compare")
    assert [cell["weights"] for cell in record["pictures"]] == [{"ada": 1}, {"ada": 1, "bob": 1}]
    np.testing.assert_array_equal(np.asarray(pair)[4:260, 264:520], full)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "<ada>", "--compare", "--strip-weights", "1"], "give one of them"),
        (["--save", "x", "--compare"], "give --prompt too"),
        (["--prompt", "a man", "--compare"], "calls no concept by its token (tokens: <ada>, <bob>)"),
        (["--prompt", "a man", "--height", "17"], "must be multiples of"),
        (["--prompt", "a man", "--count", "0"], "--count must be at least 1"),
        (["--prompt", "a man", "--mask", "m.png"], "give --image too"),
        (["--prompt", "a man", "--sampler", "dpmpp_2m_karras"], "give dpmpp_2m with the spacing karras"),
        (["--prompt", "a man", "--sampler=eule"], "sampler 'eule' is unknown; choose one of ddim, euler"),
        (["--prompt", "a man", "--refine", "0.5"], "give that too"),
        (["--prompt", "a man", "--side-by-side", "--refine", "1.5"], "--refine must lie in 0..1, not 1.5"),
        (["--prompt", "a", "--side-by-side", "--refine", "1", "--image", "i.png", "--mask", "m.png"], "outside of the"),
        (["--prompt", "a man", "--image", "no.png"], "no.png is not a picture that can be read"),
    ],
)
def test_options_that_cannot_be_met_are_refused_in_one_line(files, tiny_folder, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        run(lambda: main([*files, "--model", str(tiny_folder), "--out", str(tmp_path / "p.png"), *flags]))
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "p.png").exists()


def test_a_picture_can_be_the_beginning_and_a_mask_keeps_the_rest(files, tiny_folder, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(tmp_path / "start.png")
    Image.new("L", (40, 30), 0).save(tmp_path / "none.png")
    begin = ["--prompt", PROMPTS[0], "--image", str(tmp_path / "start.png"), "--steps", "2", "--sampler", "ddim"]
    changed, record = draw(files, tiny_folder, tmp_path / "a.png", *begin, "--strength", "0.5")
    assert record["sampling"]["strength"] == 0.5 and len(record["image_sha256"]) == 64
    kept, record = draw(files, tiny_folder, tmp_path / "b.png", *begin, "--mask", str(tmp_path / "none.png"))
    assert len(record["mask_sha256"]) == 64
    assert np.abs(np.asarray(changed).astype(int) - np.asarray(kept))[4:260, 4:260].max() > 5


def test_those_side_by_side_are_drawn_again_if_asked(files, tiny_folder, tmp_path):
    flags = ["--prompt", "a <ada> man and a <bob> dog", "--side-by-side", "--steps", "2"]
    apart, record = draw(files, tiny_folder, tmp_path / "apart.png", *flags)
    refined, of_refined = draw(files, tiny_folder, tmp_path / "refined.png", *flags, "--refine", "0.65")
    assert (record["refine"], of_refined["refine"]) == (0.0, 0.65)
    assert np.abs(np.asarray(apart, int) - np.asarray(refined, int)).max() > 8
