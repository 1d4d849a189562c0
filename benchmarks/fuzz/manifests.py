"""Damaged manifests of merged folders (`blocklora.json`), and slot registries, from disk and from servers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import edited, facts_of
from benchmarks.fuzz.folder_specimens import MANIFEST, write_merged
from benchmarks.fuzz.inputs import tiny_checkpoint
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.registries import registry_cases
from benchmarks.fuzz.stated import stated
from benchmarks.fuzz.trial import Case, Trial, choose
from benchmarks.fuzz.wrong_values import NO_JSON, WRONG_VALUES, fields_of, twice, with_value, without
from blocklora_jax.checkpoints.diffusers import save_folder
from merge.manifest import read_merge_manifest

NAME, SECONDS, MOST_MEMORY, QUICK = "manifests", 120.0, 512 << 20, 600
_FIELDS = 500  # number of cases for fields
_TIMES = 10  # number of cases for each damage to bytes


def prepare(folder: Path, seed: int) -> None:
    """Write a manifest as merges write it, and one as version 0.1.0 wrote it, without a digest."""
    checkpoint = tiny_checkpoint("sd1", folder)
    save_folder(folder / "sd1", checkpoint)
    merged = write_merged(folder, dict(checkpoint.params))
    value = json.loads((merged / MANIFEST).read_text())
    for name, content in {"sealed": value, "old": value.get("merge") or value}.items():
        (folder / name).mkdir()
        (folder / name / MANIFEST).write_text(json.dumps(content, indent=2))


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    cases = registry_cases(folder, seed)
    for name in ("sealed", "old"):
        text = (folder / name / MANIFEST).read_text()
        facts = facts_of(read_merge_manifest(folder / name))
        # With a digest, a wrong digest is noticed first, so few of these cases are needed.
        cases += choose(_field_cases(name, text, facts), _FIELDS if name == "old" else _FIELDS // 5, seed)
        for words, make in NO_JSON.items():
            cases.append(Case(f"{name}: is {words}", functools.partial(_make, make(text), (facts,))))
    cases += _byte_cases((folder / "sealed" / MANIFEST).read_bytes(), facts_of(read_merge_manifest(folder / "sealed")))
    return cases + [Case(f"{words} as a manifest", functools.partial(_place, m)) for words, m in NOT_FILES.items()]


def _make(data: bytes, accept: tuple[Any, ...], rng: np.random.Generator, scratch: Path) -> Trial:
    (scratch / MANIFEST).write_bytes(data)
    return Trial(call=lambda: facts_of(read_merge_manifest(scratch)), accept=accept)


def _place(make: Any, rng: np.random.Generator, scratch: Path) -> Trial:
    make(scratch / MANIFEST)
    return Trial(call=lambda: facts_of(read_merge_manifest(scratch)))


def _byte_cases(data: bytes, facts: Any) -> list[Case]:
    def make(words: str, rng: np.random.Generator, scratch: Path) -> Trial:
        return _make(damage(words, data, rng), (facts,), rng, scratch)

    names = (*SAME_LENGTH, *OTHER_LENGTH)
    return [Case(f"sealed: {words}", functools.partial(make, words)) for words in names for _ in range(_TIMES)]


def _field_cases(name: str, text: str, facts: Any) -> list[Case]:
    value, cases, sealed = json.loads(text), [], name == "sealed"
    for path in _few_layers(fields_of(value, 6)):
        words = f"{name}: {'.'.join(map(str, path))}"[:110]
        # With a digest nothing may change. Without one, an entry less is not damage.
        if sealed or not ({"tokens", "shapes"} & set(path[:-1]) or path[-2:] == ("concepts", 0)):
            accept = (facts,) if sealed else (facts, *_if_missing(facts, path))
            cases.append(
                Case(f"{words} missing", functools.partial(_make, json.dumps(without(value, path)).encode(), accept))
            )
        for wrong in WRONG_VALUES:
            allowed = () if sealed else stated(facts, _place_of(path), path[-1], wrong)
            if allowed is not None:
                accept = (facts, *allowed)
                cases.append(
                    Case(
                        f"{words} is {wrong.words}",
                        functools.partial(_make, with_value(value, path, wrong.text).encode(), accept),
                    )
                )
    for key in value:
        for first, words in ((True, "before"), (False, "after")):
            data = twice(value, key, '"other"' if isinstance(value[key], str) else "17", first).encode()
            cases.append(Case(f"{name}: {key} again {words} it", functools.partial(_make, data, (facts,))))
    return cases


def _few_layers(paths: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """`paths` with only the first layer of each component."""
    first: dict[tuple[Any, ...], Any] = {}
    kept = []
    for path in paths:
        at = path.index("shapes") + 2 if "shapes" in path else len(path)
        if first.setdefault(path[:at], path[at : at + 1]) in (path[at : at + 1], ()) or len(path) == at:
            first[path[:at]] = first[path[:at]] or path[at : at + 1]
            kept.append(path)
    return kept


def _place_of(path: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The path in the facts of what the manifest has at `path`."""
    if path[0] == "merge":
        path = path[1:]
    if len(path) == 1:
        return path
    if path[:1] != ("concepts",) or len(path) != 3:
        return None
    return ("weights", path[1]) if path[2] == "weight" else ("adapters", path[1], "info", path[2])


def _if_missing(facts: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The results that are allowed without the field. Earlier manifests lack some fields, which have defaults."""
    defaults = {"base_family": "sd1", "origin": "", "base_name": "", "base_digest": "", "kind": "object"}
    place = _place_of(path)
    if place is None or len(place) != 4 or path[-1] not in defaults:
        return ()
    return (edited(facts, place, defaults[path[-1]]),)
