"""Damaged adapters and LoRAs, our own and those of other programs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.adapter_headers import header_cases
from benchmarks.fuzz.adapter_settings import setting_cases
from benchmarks.fuzz.adapter_specimens import FILE, Specimen, read_specimens, write_specimens
from benchmarks.fuzz.adapter_tensors import tensor_cases
from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import is_finite, without_numbers
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.raw_safetensors import header_size
from benchmarks.fuzz.trial import Case, Trial, choose

NAME, SECONDS, MOST_MEMORY, QUICK = "adapters", 20.0, 512 << 20, 2000
_FIELDS = 1200  # number of cases for fields of headers
_TIMES = 6  # number of cases for each damage to bytes in each part of a file

# Unusual names that must be accepted.
_GOOD = {"a link to the file": FILE, "a name with blanks": "my  best.safetensors", "a name in Greek": "άδα.safetensors"}


def prepare(folder: Path, seed: int) -> None:
    """Write the undamaged files."""
    write_specimens(folder)


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    specimens = read_specimens(folder)
    cases = tensor_cases(specimens) + choose(header_cases(specimens), _FIELDS, seed)
    cases += choose(setting_cases(specimens), _FIELDS // 2, seed)
    for specimen in specimens:
        for name in (*SAME_LENGTH, *OTHER_LENGTH):
            for part in ("length", "header", "body"):
                times = 2 if part == "length" else _TIMES
                cases += [
                    Case(f"{specimen.name}: {name} ({part})", functools.partial(_bytes, specimen, name, part))
                ] * times
    cases += [Case(f"{words} as a file", functools.partial(_place, specimens[-1], m)) for words, m in NOT_FILES.items()]
    ours = next(specimen for specimen in specimens if specimen.name == "ours")
    return cases + [Case(words, functools.partial(_good, ours, words)) for words in _GOOD]


def _bytes(specimen: Specimen, name: str, part: str, rng: np.random.Generator, scratch: Path) -> Trial:
    data = specimen.data
    start = 8 + header_size(data)
    low, high = {"length": (0, 8), "header": (8, start), "body": (start, len(data))}[part]
    may_differ = name in SAME_LENGTH and not specimen.has_digest
    apart = functools.partial(_is_other_numbers, specimen.facts) if may_differ else lambda facts: False
    return specimen.trial(damage(name, data, rng, low, high), scratch, apart=apart)


def _is_other_numbers(expected: Any, facts: Any) -> bool:
    """Whether only numbers and free texts differ, and all numbers are finite. This can be noticed only by a digest."""
    keys = ("rank", "slots", "partition", "origin", "base_family", "base_digest")
    same = all(facts["info"][key] == expected["info"][key] for key in keys)
    return same and is_finite(facts) and without_numbers(facts["lora"]) == without_numbers(expected["lora"])


def _place(specimen: Specimen, make: Any, rng: np.random.Generator, scratch: Path) -> Trial:
    return specimen.trial_of(make(scratch / FILE), accept=())


def _good(specimen: Specimen, words: str, rng: np.random.Generator, scratch: Path) -> Trial:
    path = scratch / _GOOD[words]
    if words == "a link to the file":
        path.symlink_to(specimen.folder / FILE)
    else:
        path.write_bytes(specimen.data)
    return specimen.trial_of(path, must_load=True)
