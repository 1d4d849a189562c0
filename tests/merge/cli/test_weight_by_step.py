"""`--block-weights` and `--weight-by-step` of `python -m merge`, from flags to pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.cli.weight_by_step import read_factors


@pytest.fixture
def file(tiny_sd, tmp_path):
    path = tmp_path / "ada.safetensors"
    random_adapter("ada", tiny_sd.params, slots=(0,), layers="attention", vectors=0).save(path)
    return path


def picture(file, tiny_folder, tmp_path, *flags: str) -> np.ndarray:
    out = tmp_path / "p.png"
    main(
        [
            str(file),
            "--prompt",
            "a photo of a man",
            "--steps",
            "2",
            "--model",
            str(tiny_folder),
            "--out",
            str(out),
            *flags,
        ]
    )
    with Image.open(out) as image:
        image.load()
        names = ("block_weights", "weight_by_step")
        record = json.loads(image.text["blocklora"])  # pyright: ignore[reportAttributeAccessIssue]
        assert {name for name in names if name in record} == {n for n in names if f"--{n.replace('_', '-')}" in flags}
        return np.asarray(image)[4:260, 4:260]


def test_a_factor_from_the_start_is_the_weight_itself(file, tiny_folder, tmp_path):
    none = picture(file, tiny_folder, tmp_path, "--weights", "0")
    whole = picture(file, tiny_folder, tmp_path)
    assert (none != whole).any()
    np.testing.assert_array_equal(picture(file, tiny_folder, tmp_path, "--weight-by-step", "ada=0:0"), none)
    np.testing.assert_array_equal(picture(file, tiny_folder, tmp_path, "--weight-by-step", "ada=1:0"), whole)
    half = picture(file, tiny_folder, tmp_path, "--weight-by-step", "ada=0:0,0.5:1")
    assert (half != none).any()
    assert (half != whole).any()
    np.testing.assert_array_equal(picture(file, tiny_folder, tmp_path, "--block-weights", "NONE"), none)
    np.testing.assert_array_equal(picture(file, tiny_folder, tmp_path, "--block-weights", "attn=1"), whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--weight-by-step", "bob=0:1"), "no adapter is named 'bob'; there are ada"),
        (("--weight-by-step", "ada=0:1", "--method", "average"), "--weight-by-step is for --method sum"),
        (("--weight-by-step", "ada=0:1", "--save", "x"), "a saved model has the same weights"),
        (("--block-weights", "1,2"), "are 2 numbers"),
    ],
)
def test_flags_that_do_not_go_together_are_one_error(file, tiny_folder, capsys, flags, message):
    with pytest.raises(SystemExit):
        run(lambda: main([str(file), "--prompt", "a man", "--model", str(tiny_folder), *flags]))
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["ada", "ada=1", "ada=0:x", "ada=2:1", "ada=0.5:1,0.2:1", "ada=0:nan", "=0:1"])
def test_a_text_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="--weight-by-step"):
        read_factors([text], ["ada"])
