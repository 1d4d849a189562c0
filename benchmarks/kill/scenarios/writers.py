"""Writers that are tried only on a full disk. Each writes one file, in the same way as the other commands."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kill.inputs import ADA, BOB, LORA, MODEL
from benchmarks.kill.launch import Command
from benchmarks.kill.trial import Scenario

_WORDS = ("--random-styles", "a photo of", "--random-subjects", "dog", "--random-scenes", "in the snow")
_SMALL = "--basis None --blocks 4 --slot 2 --rank 2 --prompts 8 --random-prompts 8".split()


def writer_scenarios(inputs: Path) -> list[Scenario]:
    """Conversion of a LoRA, a basis, negative tokens, pictures, a heat map. inputs: the folder of `write_inputs`."""
    ada, bob, lora, model = (str(inputs / name) for name in (ADA, BOB, LORA, MODEL))
    picture = ("--prompt", "a <ada> man", "--steps", "2")
    return [
        _writer("conversion", "merge", ("convert", lora, *_SMALL, *_WORDS), model, "eve.safetensors"),
        _writer("basis", "train.basis", ("--prompts", "16"), model, "basis.safetensors"),
        _writer("negative_tokens", "train.negative_tokens", (ada, bob), model, "negative_tokens.safetensors"),
        _writer("pictures", "merge", (ada, bob, *picture), model, "pictures.png"),
        _writer("heat map", "merge", ("check", ada, bob), model, "crosstalk.png"),
    ]


def _writer(name: str, module: str, args: tuple[str, ...], model: str, out: str) -> Scenario:
    return Scenario(
        name=name, command=lambda folder: Command(module, (*args, "--model", model, "--out", str(folder / out)))
    )
