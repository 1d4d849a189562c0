"""`python -m merge tune`: files with the same weights and other tokens, which merge and can be removed as before."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.runner import run
from blocklora_jax.pipeline import StableDiffusion, stable_diffusion
from blocklora_jax.probing import token_tuning
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main

WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "cat"), scenes=("on the beach",))


@pytest.fixture
def files(tiny_sd, tmp_path, monkeypatch):
    """Two adapters in slots of their own."""
    # The tiny model reads 24 tokens. Prompts of the usual words are longer.
    monkeypatch.setattr(token_tuning, "words_for", lambda name: WORDS)
    paths = [tmp_path / f"{name}.safetensors" for name in ("ada", "bob")]
    for slot, path in enumerate(paths):
        random_adapter(path.stem, tiny_sd.params, slots=(slot,), layers="cross_kv", size=0.2).save(path)
    return paths


def fail(capsys, *args: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(lambda: main([str(arg) for arg in args]))
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    return error


def tune(*args: object) -> None:
    main(["tune", *(str(arg) for arg in args), "--steps", "4"])


def test_files_have_the_same_weights_and_merge_and_are_removed_as_before(files, tiny_folder, tmp_path, capsys):
    out, merged, without = tmp_path / "tuned", tmp_path / "merged", tmp_path / "without"
    tune(*files, "--out", out, "--model", tiny_folder)
    shown = capsys.readouterr().out
    assert "ada" in shown and f"{out}/*.safetensors" in shown
    for path in files:
        old, new = Adapter.load(path), Adapter.load(out / path.name)
        assert old.info.slots == new.info.slots
        for layer, pair in old.lora["unet"].items():
            assert all(map(np.array_equal, pair, new.lora["unet"][layer]))
    main(
        [str(out / "ada.safetensors"), str(out / "bob.safetensors"), "--model", str(tiny_folder), "--save", str(merged)]
    )
    main(["remove", str(merged), "ada", "--out", str(without)])
    main([str(out / "bob.safetensors"), "--model", str(tiny_folder), "--save", str(tmp_path / "alone")])
    left, alone = (
        StableDiffusion.from_pretrained(str(path)).checkpoint.params for path in (without, tmp_path / "alone")
    )
    kernels = [
        tree["unet"]["mid_block"]["attentions_0"]["transformer_blocks_0"]["attn2"]["to_k"] for tree in (left, alone)
    ]
    assert np.array_equal(kernels[0]["kernel"], kernels[1]["kernel"])


@pytest.mark.parametrize("command", ["tune", "merge"])
def test_the_base_is_not_copied_to_the_device(command, files, tiny_folder, tmp_path, monkeypatch):
    held, place = [], stable_diffusion.place_params

    def recorded(*args):
        held.append(place(*args))
        return held[-1]

    monkeypatch.setattr(stable_diffusion, "place_params", recorded)
    if command == "tune":
        tune(*files, "--out", tmp_path / "tuned", "--model", tiny_folder)
    else:
        main([*map(str, files), "--model", str(tiny_folder), "--save", str(tmp_path / "merged")])
    leaves = [leaf for params in held for leaf in jax.tree.leaves(params)]
    assert leaves and not any(isinstance(leaf, jax.Array) for leaf in leaves)


def test_what_cannot_be_tuned_is_one_line_and_writes_nothing(files, tiny_folder, tmp_path, capsys):
    out = tmp_path / "tuned"
    assert "name two or more adapter files" in fail(capsys, "tune", files[0], "--out", out, "--model", tiny_folder)
    args = ["tune", *files, "--out", out, "--model", tiny_folder]
    assert "3 weights for 2 adapters" in fail(capsys, *args, "--weights", "1", "1", "1")
    assert "safetensors" in fail(capsys, *args[:-3], tmp_path, "--model", tiny_folder)
    assert not out.exists()


def test_files_are_replaced_only_on_request(files, tiny_folder, tmp_path, capsys):
    out = tmp_path / "tuned"
    tune(*files, "--out", out, "--model", tiny_folder)
    before = (out / "ada.safetensors").read_bytes()
    assert "--overwrite" in fail(capsys, "tune", *files, "--out", out, "--model", tiny_folder)
    assert (out / "ada.safetensors").read_bytes() == before
    tune(*files, "--out", out, "--model", tiny_folder, "--overwrite", "--weights", "1", "0.5")
    # The order of the files is that of the weights.
    assert f"{out}/ada.safetensors {out}/bob.safetensors --weights 1 0.5" in capsys.readouterr().out


def test_concepts_of_one_name_get_other_names(files, tiny_folder, tmp_path, capsys):
    out, bob = tmp_path / "tuned", Adapter.load(files[1])
    replace(bob, info=replace(bob.info, name="Ada")).save(files[1])
    args = [*files, "--out", out, "--model", tiny_folder]
    error = fail(capsys, "tune", *args)
    assert "2 concepts are named 'ada' and 'Ada', which some file systems do not tell apart: give each" in error
    assert "2 concepts are named 'a': give each file another" in fail(capsys, "tune", *args, "--name", "a", "a")
    assert "1 of --name for 2 files" in fail(capsys, "tune", *args, "--name", "eve")
    assert "cannot be the name of a file" in fail(capsys, "tune", *args, "--name", "eve", "../bob")
    assert not out.exists()
    tune(*args, "--name", "eve", "bob", "--weights", "1", "-0.5")
    assert Adapter.load(out / "bob.safetensors").tokens.keys() == bob.tokens.keys()
    assert [Adapter.load(out / f"{name}.safetensors").name for name in ("eve", "bob")] == ["eve", "bob"]


def test_the_hint_names_only_the_new_files(files, tiny_folder, tmp_path, capsys):
    out = tmp_path / "tuned"
    out.mkdir()
    (out / "other.safetensors").write_bytes(files[0].read_bytes())
    tune(*files, "--out", out, "--model", tiny_folder)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" {out}/ada.safetensors {out}/bob.safetensors …")
