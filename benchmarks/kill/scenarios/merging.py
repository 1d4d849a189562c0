"""Merged folders, single files, exports and joint fits: anew, and over an earlier one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.kill.inputs import ADA, BOB, MODEL
from benchmarks.kill.launch import Command, run
from benchmarks.kill.trial import Scenario


def merging_scenarios(inputs: Path) -> list[Scenario]:
    """All of them. inputs: the folder of `write_inputs`."""
    ada, both = (str(inputs / ADA),), (str(inputs / ADA), str(inputs / BOB))
    model = ("--model", str(inputs / MODEL))
    merge, export, fuse = partial(_merge, *model), partial(_export), partial(_fuse, *model)
    return [
        _scenario("merged folder, new", merge, both, "merged", units=("merged",)),
        _scenario("merged folder, over one", merge, both, "merged", earlier=ada, units=("merged",)),
        _scenario("single file, new", merge, both, "merged.safetensors"),
        _scenario("single file, over one", merge, both, "merged.safetensors", earlier=ada),
        _scenario("export, new", export, both, "lora.safetensors"),
        _scenario("export, over one", export, both, "lora.safetensors", earlier=ada),
        _scenario("joint fit, new", fuse, both, "fitted"),
        _scenario("joint fit, over one", fuse, both, "fitted", earlier=(*both, "--lambda", "2")),
    ]


def _scenario(name: str, make, args: tuple[str, ...], out: str, earlier: tuple[str, ...] = (), units=()) -> Scenario:
    def prepare(folder: Path) -> None:
        log = folder.with_name("prepared.txt")
        if earlier and (code := run(make(folder / out, earlier), log)):
            raise RuntimeError(f"{name}: cannot be prepared ({code}): {log.read_text()[-500:]}")

    return Scenario(name=name, command=lambda folder: make(folder / out, args), prepare=prepare, units=units)


def _merge(*args) -> Command:
    *model, out, files = args
    return Command("merge", (*files, *model, "--save", str(out)))


def _export(out: Path, files: tuple[str, ...]) -> Command:
    return Command("merge", ("export", *files, "--out", str(out)))


def _fuse(*args) -> Command:
    words = ("--trigger", "<ada> man", "<bob> man")
    *model, out, files = args
    return Command("merge", ("fuse", *files, *model, *words, "--out", str(out)))
