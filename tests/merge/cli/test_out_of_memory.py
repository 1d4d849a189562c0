"""A device without memory ends every command in one line that names settings to lower, and nothing is written."""

from __future__ import annotations

import jax
import pytest

from blocklora_jax.command_line.runner import run
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from train.concept.__main__ import main as train

WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "man"), scenes=("on the beach",))
PICTURE = ["--allow-overlap", "--prompt", "a photo of <ada> man", "--steps", "1"]


def exhausted(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50GiB.")


@pytest.fixture
def files(tiny_sd, tmp_path, monkeypatch):
    """Two files of adapters for commands that find the tiny model."""
    monkeypatch.setattr("blocklora_jax.pipeline.StableDiffusion.from_pretrained", lambda *a, **k: tiny_sd)
    for module in ("pocket.prompt_words", "probing.input_statistics"):
        monkeypatch.setattr(f"blocklora_jax.{module}.words_for", lambda name: WORDS)
    paths = [tmp_path / f"{name}.safetensors" for name in ("ada", "rex")]
    for path in paths:
        random_adapter(path.stem, tiny_sd.params, slots=(), layers="cross_kv", partition=None).save(path)
    return [str(path) for path in paths]


def line_of(command, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        run(command)
    assert stop.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith("error: not enough memory (1.50GiB were requested at once): ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("verb", "count", "flags", "where", "setting"),
    [
        ([], 2, PICTURE, "blocklora_jax.diffusion.requests.generate", "fewer or smaller pictures"),
        (["fit"], 2, [], "blocklora_jax.probing.probe.Probe.add", "--memory"),
        (["convert"], 1, ["--slot", "0", "--basis", "None"], "blocklora_jax.probing.probe.Probe.add", "--memory"),
        (["check"], 2, [], "blocklora_jax.probing.probe.Probe.add", "--memory"),
    ],
)
def test_merging(verb, count, flags, where, setting, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(where, exhausted)
    out = tmp_path / "out"
    args = [*verb, *files[:count], *flags, "--out", str(out / "made.png" if verb != ["fit"] else out)]
    assert setting in line_of(lambda: main(args), capsys)
    assert not out.exists()


def test_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("train.concept.run.load_base", exhausted)
    (tmp_path / "ada").mkdir()
    out = tmp_path / "run"
    args = ["--images", str(tmp_path / "ada"), "--token", "<ada>", "--class-noun", "man", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["train.concept", *args])
    line = line_of(train, capsys)
    assert all(setting in line for setting in ("--remat", "--batch", "--resolution", "--base-dtype"))
    assert not list(out.glob("*.safetensors"))
