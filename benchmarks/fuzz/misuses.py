"""Wrong command lines, of all commands."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from benchmarks.fuzz.misuse_flags import wrong_calls
from benchmarks.fuzz.misuse_inputs import command_trial, write_inputs
from benchmarks.fuzz.misuse_named import MAY_SUCCEED, MUST_REFUSE
from benchmarks.fuzz.trial import Case, Trial, choose
from benchmarks.fuzz.yaml_traps import CONCEPTS, SETTINGS

NAME, SECONDS, MOST_MEMORY, QUICK = "misuses", 150.0, 1536 << 20, 120
_FLAGS = 260  # cases of flags with wrong values
_APART = 12  # every so many cases run in a process of their own
_TRAIN = "--images pictures --token <ada> --class-noun man --out run --model model --steps 1 --batch 1 --blocks 4".split()


def prepare(folder: Path, seed: int) -> None:
    """Write what the commands read."""
    write_inputs(folder)


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in one order."""
    calls = [(words[0], words[1:], True) for words in MUST_REFUSE] + [(words[0], words[1:], False) for words in MAY_SUCCEED]
    cases = [Case(_title(module, args), functools.partial(_call, folder, module, args, refuse)) for module, args, refuse in calls]
    for words, text in SETTINGS.items():
        cases.append(Case(f"train.concept --config: {words}", functools.partial(_settings, folder, text)))
    for words, text in CONCEPTS.items():
        cases.append(Case(f"train.concepts --concepts: {words}", functools.partial(_concepts, folder, text)))
    flags = [Case(_title(m, a), functools.partial(_call, folder, m, a, False)) for m, a in wrong_calls()]
    cases += choose(flags, _FLAGS, seed)
    every = [functools.partial(case.make, apart=index % _APART == 0) for index, case in enumerate(cases)]
    return [Case(case.title, make) for case, make in zip(cases, every, strict=True)]


def _title(module: str, args: list[str]) -> str:
    words = [arg if len(arg) < 60 else f"{arg[:20]}… ({len(arg)})" for arg in args]
    return repr(f"{module} {' '.join(words)}")


def _call(inputs: Path, module: str, args: list[str], refuse: bool, rng: np.random.Generator, scratch: Path, apart: bool) -> Trial:
    # No system hands a NUL on; half a character stands for a byte that is no UTF-8.
    return command_trial(inputs, scratch, module, args, refuse=refuse, apart_process=apart and not any(len(a) > 50_000 for a in args))


def _settings(inputs: Path, text: bytes, rng: np.random.Generator, scratch: Path, apart: bool) -> Trial:
    # Flags override the file: those that the trap is about are left out.
    trial = command_trial(inputs, scratch, "train.concept", [*_without_flags(text), "--config", "trap.yaml"], refuse=True, apart_process=apart)
    (scratch / "trap.yaml").write_bytes(text)
    return trial


def _without_flags(text: bytes) -> list[str]:
    named = {word: f"--{word.replace('_', '-')}" for word in ("images", "token", "class_noun", "out", "steps")}
    args = list(_TRAIN)
    for word, flag in named.items():
        if f"{word}:".encode() in text:
            at = args.index(flag)
            args = args[:at] + args[at + 2 :]
    return args


def _concepts(inputs: Path, text: bytes, rng: np.random.Generator, scratch: Path, apart: bool) -> Trial:
    args = ["--concepts", "trap.yaml", "--out", "runs", "--model", "model", "--steps", "1", "--batch", "1", "--blocks", "4", "--rank", "1"]
    trial = command_trial(inputs, scratch, "train.concepts", args, refuse=True, apart_process=apart)
    (scratch / "trap.yaml").write_bytes(text)
    return trial
