"""Merged folders, single files, exports and joint fits: new ones, and in place of an earlier one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.kill.inputs import ADA, BOB, MODEL
from benchmarks.kill.launch import Command, run
from benchmarks.kill.trial import Scenario

# Adapters are replaced only on request.
OVERWRITE = ("--overwrite",)


def merging_scenarios(inputs: Path) -> list[Scenario]:
    """All scenarios of merging. inputs: the folder of `write_inputs`."""
    ada, both = (str(inputs / ADA),), (str(inputs / ADA), str(inputs / BOB))
    model = str(inputs / MODEL)
    merge, export, fuse = partial(_merge, model), _export, partial(_fuse, model)
    return [
        _scenario("merged folder, new", merge, both, "merged", units=("merged",)),
        _scenario("merged folder, over one", merge, both, "merged", earlier=ada, units=("merged",)),
        _scenario("single file, new", merge, both, "merged.safetensors"),
        _scenario("single file, over one", merge, both, "merged.safetensors", earlier=ada),
        _scenario("export, new", export, both, "lora.safetensors"),
        _scenario("export, over one", export, both, "lora.safetensors", earlier=ada),
        _scenario("joint fit, new", fuse, both, "fitted", again=OVERWRITE),
        _scenario("joint fit, over one", fuse, (*both, *OVERWRITE), "fitted", earlier=(*both, "--lambda", "2")),
    ]


def _scenario(
    name: str,
    make: Callable[[Path, tuple[str, ...]], Command],
    args: tuple[str, ...],
    out: str,
    earlier: tuple[str, ...] = (),
    again: tuple[str, ...] = (),
    units: tuple[str, ...] = (),
) -> Scenario:
    """earlier: the arguments that make the earlier files. again: more arguments for the restart."""

    def prepare(folder: Path) -> None:
        log = folder.with_name("prepared.txt")
        if earlier and (code := run(make(folder / out, earlier), log)):
            raise RuntimeError(f"{name}: cannot be prepared ({code}): {log.read_text()[-500:]}")

    return Scenario(
        name=name,
        command=lambda folder: make(folder / out, args),
        restart=lambda folder: make(folder / out, (*args, *again)),
        prepare=prepare,
        units=units,
    )


def _merge(model: str, out: Path, files: tuple[str, ...]) -> Command:
    return Command("merge", (*files, "--model", model, "--save", str(out)))


def _export(out: Path, files: tuple[str, ...]) -> Command:
    return Command("merge", ("export", *files, "--out", str(out)))


def _fuse(model: str, out: Path, files: tuple[str, ...]) -> Command:
    words = ("--trigger", "<ada> man", "<bob> man")
    return Command("merge", ("fit", *files, "--model", model, *words, "--out", str(out)))
