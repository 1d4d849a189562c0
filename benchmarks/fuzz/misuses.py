"""Wrong command lines of all commands."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.fuzz.misuse_flags import COMMANDS, WITHOUT_BASIS, wrong_calls
from benchmarks.fuzz.misuse_inputs import command_trial, write_inputs
from benchmarks.fuzz.misuse_named import read_calls
from benchmarks.fuzz.trial import Case, Trial, choose
from benchmarks.fuzz.yaml_traps import CONCEPTS, SETTINGS

NAME, SECONDS, MOST_MEMORY, QUICK = "misuses", 150.0, 1536 << 20, 150
_FLAGS = 260  # number of cases for flags with wrong values
_APART = 12  # one in this number of calls runs in a separate process
_TRAIN = (
    f"{WITHOUT_BASIS} --images pictures --token <ada> --class-noun man --out run --model model --steps 1 --batch 1"
    " --blocks 4"
)
_CONCEPTS = f"{WITHOUT_BASIS} --out runs --model model --steps 1 --batch 1 --blocks 4 --rank 1"


def prepare(folder: Path, seed: int) -> None:
    """Write the inputs of the commands."""
    write_inputs(folder)


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    cases = []
    for name, refuse in (("must_refuse.txt", True), ("may_succeed.txt", False)):
        for module, *args in read_calls(name):
            cases.append(Case(_title(module, args), functools.partial(_call, folder, module, args, refuse)))
    for words, text in SETTINGS.items():
        cases.append(Case(f"train.concept --config: {words}", functools.partial(_settings, folder, text)))
    for words, text in CONCEPTS.items():
        cases.append(Case(f"train.concepts --concepts: {words}", functools.partial(_concepts, folder, text)))
    for command in COMMANDS:
        args = command.args.split()
        make = functools.partial(_sound, folder, command.module, args)
        cases.append(Case(f"nothing wrong: {_title(command.module, args)}", make))
    flags = [Case(_title(m, a), functools.partial(_call, folder, m, a, False)) for m, a in wrong_calls()]
    return cases + choose(flags, _FLAGS, seed)


def _title(module: str, args: list[str]) -> str:
    words = [arg if len(arg) < 60 else f"{arg[:20]}… ({len(arg)})" for arg in args]
    return repr(f"{module} {' '.join(words)}")


def _call(inputs: Path, module: str, args: list[str], refuse: bool, rng: np.random.Generator, scratch: Path) -> Trial:
    # Operating systems do not accept longer arguments.
    may_be_apart = not any(len(word) > 50_000 for word in args)
    apart = may_be_apart and zlib.crc32(" ".join(args).encode(errors="replace")) % _APART == 0
    return command_trial(inputs, scratch, module, args, refuse=refuse, apart_process=apart)


def _sound(inputs: Path, module: str, args: list[str], rng: np.random.Generator, scratch: Path) -> Trial:
    """The calls from which the wrong ones are made must succeed. Else those would be refused for other reasons."""
    return command_trial(inputs, scratch, module, args, must_succeed=True)


def _settings(inputs: Path, text: bytes, rng: np.random.Generator, scratch: Path) -> Trial:
    # Flags override the file. So flags for settings in the file are left out.
    trial = _call(inputs, "train.concept", [*_without_flags(text), "--config", "trap.yaml"], True, rng, scratch)
    (scratch / "trap.yaml").write_bytes(text)
    return trial


def _without_flags(text: bytes) -> Sequence[str]:
    named = {word: f"--{word.replace('_', '-')}" for word in ("images", "token", "class_noun", "out", "steps")}
    args: Sequence[str] = _TRAIN.split()
    for word, flag in named.items():
        if f"{word}:".encode() in text:
            at = list(args).index(flag)
            args = [*args[:at], *args[at + 2 :]]
    return args


def _concepts(inputs: Path, text: bytes, rng: np.random.Generator, scratch: Path) -> Trial:
    trial = _call(inputs, "train.concepts", [*_CONCEPTS.split(), "--concepts", "trap.yaml"], True, rng, scratch)
    (scratch / "trap.yaml").write_bytes(text)
    return trial
