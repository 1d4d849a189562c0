"""`python -m merge convert FOLDER` keeps the results of an earlier run only if they are still what it would make."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.library.yaml_file import FILE
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main

QUICK = ["--basis", "None", "--blocks", "4", "--rank", "2", "--prompts", "2", "--random-prompts", "2", "--steps", "1"]
WORDS = ["--random-styles", "a photo of", "--random-subjects", "dog", "owl", "--random-scenes", "in the snow"]


@pytest.fixture
def loras(tiny_sd, tmp_path):
    """A folder with one LoRA and a list."""
    adapter = random_adapter("gil", tiny_sd.params, slots=(), partition=None, layers="cross_kv")
    replace(adapter, info=replace(adapter.info, base_digest="")).save(tmp_path / "loras" / "gil.safetensors")
    main(["library", "scan", str(tmp_path / "loras")])
    return tmp_path / "loras"


@pytest.fixture
def args(loras, tiny_folder, tmp_path, capsys):
    """The arguments of a conversion that was done."""
    args = ["convert", str(loras), *QUICK, *WORDS, "--model", str(tiny_folder), "--out", str(tmp_path / "out")]
    main(args)
    assert "converted 1 LoRAs" in capsys.readouterr().out
    return args


def edit(loras, old: str, new: str) -> None:
    text = (loras / FILE).read_text()
    assert old in text
    (loras / FILE).write_text(text.replace(old, new, 1))


def refused(args, *more: str) -> str:
    with pytest.raises(UserError) as error:
        main([*args, *more])
    return str(error.value)


def test_what_was_made_otherwise_is_kept_and_named(loras, args, tmp_path, tiny_sd, capsys):
    out = tmp_path / "out" / "gil.safetensors"
    before = out.read_bytes()
    # These change only LoRAs with convolutions, or of high rank.
    main([*args, "--convolutions", "drop", "--max-rank", "8"])
    assert "1 of 1 are converted already" in capsys.readouterr().out
    assert f"{out} was converted with other settings (words): remove" in refused(args, "--random-scenes", "on a hill")
    for old, new, name in (
        ("trigger: <gil> man", "trigger: <gil> boy", "trigger"),
        ("class_noun: man", "class_noun: boy", "class_noun"),
        ("kind: object", "kind: person", "kind"),
        ("weight: 1.0", "weight: 0.5", "weight"),
    ):
        text = (loras / FILE).read_text()
        edit(loras, f"\n  {old}", f"\n  {new}")
        assert f"other settings ({name})" in refused(args)
        (loras / FILE).write_text(text)
    StableDiffusion.from_pretrained(args[args.index("--model") + 1]).save(
        tmp_path / "other", params={**tiny_sd.params, "unet": {**tiny_sd.params["unet"], "conv_out": _other(tiny_sd)}}
    )
    assert "other settings (model)" in refused(args, "--model", str(tmp_path / "other"))
    gil = Adapter.load(loras / "gil.safetensors")
    replace(gil, info=replace(gil.info, alpha=2 * gil.info.alpha)).save(loras / "gil.safetensors")
    error = refused(args)
    assert "other settings (file)" in error
    assert "choose another --out, or give --overwrite" in error
    assert out.read_bytes() == before
    main([*args, "--overwrite"])
    assert out.read_bytes() != before
    main(args)


def _other(sd) -> dict:
    layer = sd.params["unet"]["conv_out"]
    return {**layer, "bias": layer["bias"] + 1}


def test_results_of_older_versions_are_kept_as_before(loras, args, tmp_path, capsys):
    out = tmp_path / "out" / "gil.safetensors"
    result = Adapter.load(out)
    training = json.loads(result.info.training)
    del training["converted_from"]
    replace(result, info=replace(result.info, training=json.dumps(training))).save(out)
    edit(loras, "\n  trigger: <gil> man", "\n  trigger: <gil> boy")
    main(args)
    assert "1 of 1 are converted already" in capsys.readouterr().out
    assert "other settings (seed)" in refused(args, "--seed", "5")
