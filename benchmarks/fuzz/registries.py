"""Damaged slot registries, and servers that answer wrongly when a registry is read."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import edited, facts_of, is_finite
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.servers import ANSWERS, serve
from benchmarks.fuzz.stated import stated
from benchmarks.fuzz.trial import Case, Trial, choose
from benchmarks.fuzz.wrong_values import NO_JSON, WRONG_VALUES, fields_of, twice, with_value, without
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.registry.store import read_registry

_FIELDS = 250  # number of cases for fields
_TIMES = 6  # number of cases for each damage to bytes
_REGISTRY = {
    "blocklora_registry": 1,
    "base_name": "tiny",
    "base_digest": "0f" * 32,
    "partition": {"num_blocks": 4, "axis": "in", "seed": 0},
    "entries": [
        {"name": "ada", "token": "<ada>", "slots": [0], "owner": "ada@example.org", "date": "2026-11-21"},
        {"name": "bob", "token": "<bob>", "slots": [2, 3], "owner": "Bob", "date": "2026-11-22"},
    ],
}


def registry_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    text, path = json.dumps(_REGISTRY, indent=2), folder / "registry.json"
    # Another worker may read it just now.
    write_atomic(path, text.encode())
    facts = _facts(path)
    cases = choose(_field_cases(facts), _FIELDS, seed)
    for words, make in NO_JSON.items():
        cases.append(Case(f"registry: is {words}", functools.partial(_make, make(text), (facts,))))
    for words in (*SAME_LENGTH, *OTHER_LENGTH):
        # Registries have no digest, because people edit them by hand.
        cases += [Case(f"registry: {words}", functools.partial(_bytes, text.encode(), facts, words))] * _TIMES
    cases += [Case(f"{words} as a registry", functools.partial(_place, make)) for words, make in NOT_FILES.items()]
    cases.append(
        Case("registry: with a byte order mark", functools.partial(_make, b"\xef\xbb\xbf" + text.encode(), (facts,)))
    )
    # These come first, because the slow ones take as long as all others together.
    served = [Case(f"a server with {words}", functools.partial(_served, text, facts, words)) for words in ANSWERS]
    return served[::-1] + cases


def _facts(where: str | Path) -> Any:
    registry = read_registry(where)
    return facts_of({"registry": registry, "free": registry.free_slots(), "collisions": registry.collisions()})


def _make(data: bytes, accept: tuple[Any, ...], rng: np.random.Generator, scratch: Path) -> Trial:
    path = scratch / "registry.json"
    path.write_bytes(data)
    return Trial(call=lambda: _facts(path), accept=accept)


def _bytes(data: bytes, facts: Any, words: str, rng: np.random.Generator, scratch: Path) -> Trial:
    path = scratch / "registry.json"
    path.write_bytes(damage(words, data, rng))
    return Trial(call=lambda: _facts(path), accept=(facts,), apart=is_finite)


def _place(make: Any, rng: np.random.Generator, scratch: Path) -> Trial:
    path = make(scratch / "registry.json")
    return Trial(call=lambda: _facts(path))


def _served(text: str, facts: Any, words: str, rng: np.random.Generator, scratch: Path) -> Trial:
    url = serve(ANSWERS[words], text.encode())
    is_good = words == "the registry"
    return Trial(call=lambda: _facts(url), accept=(facts,), must_load=is_good)


def _field_cases(facts: Any) -> list[Case]:
    cases = []
    for path in fields_of(_REGISTRY, 4):
        words = f"registry: {'.'.join(map(str, path))}"
        missing = (edited(facts, ("registry", *path), ""),) if path[-1] in ("owner", "date") else ()
        if path[-2:] != ("entries", 0):  # one entry less is not damage
            cases.append(
                Case(
                    f"{words} missing",
                    functools.partial(_make, json.dumps(without(_REGISTRY, path)).encode(), (facts, *missing)),
                )
            )
        place = ("registry", *path) if isinstance(path[-1], str) else None
        for wrong in WRONG_VALUES:
            allowed = stated(facts, place, path[-1], wrong)
            if allowed is not None:
                data = with_value(_REGISTRY, path, wrong.text).encode()
                cases.append(Case(f"{words} is {wrong.words}", functools.partial(_make, data, (facts, *allowed))))
    for key in _REGISTRY:
        data = twice(_REGISTRY, key, '"other"' if key.startswith("base") else "[]", first=False).encode()
        cases.append(Case(f"registry: {key} twice", functools.partial(_make, data, (facts,))))
    return cases
