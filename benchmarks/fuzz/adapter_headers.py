"""Headers of adapters with fields that have a wrong type, are missing, given twice, huge or deeply nested."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.adapter_specimens import Specimen
from benchmarks.fuzz.facts import edited
from benchmarks.fuzz.trial import Case, Trial
from benchmarks.fuzz.wrong_values import DEEP, NO_JSON, WRONG_VALUES, Wrong, fields_of, twice, with_value, without

_TEXTS = ("name", "class_noun", "trigger", "base_name")
_DEFAULTS = {"tokens_2": {}, "base_family": "sd1", "origin": "", "base_digest": "", "base_name": "", "kind": "object"}
_PRINTABLE = frozenset(
    {"no text", "a word", "a number as text", "a path upwards", "an absolute path", "100,000 letters"}
)
# Files that are damaged field by field. The others have the same fields.
_CHOSEN = ("ours", "ours XL", "ours basis", "ours plain")


def header_cases(specimens: list[Specimen]) -> list[Case]:
    """Cases for the headers of our own adapters, and for the headers that all safetensors files have."""
    cases: list[Case] = []
    for specimen in specimens:
        if specimen.name in _CHOSEN:
            cases += _field_cases(specimen)
        if specimen.name in ("ours", "kohya", "diffusers"):
            cases += _container_cases(specimen)
    return cases


def _field_cases(specimen: Specimen) -> list[Case]:
    header = json.loads(specimen.raw.metadata["blocklora"])
    paths = [path for path in fields_of(header) if path[0] != "training" or len(path) == 1]
    paths = [path for path in paths if path[0] != "shapes" or _is_first(header, path)]
    cases = []
    for path in paths:
        name = f"{specimen.name}: {'.'.join(map(str, path))}"[:100]
        missing = json.dumps(without(header, path))
        cases.append(_case(f"{name} missing", specimen, missing, _if_missing(specimen.facts, path)))
        for wrong in WRONG_VALUES:
            if _is_sound(path, wrong):
                continue
            text = with_value(header, path, wrong.text)
            cases.append(_case(f"{name} is {wrong.words}", specimen, text, _stated(specimen.facts, path, wrong)))
    for key in header:
        for first, words in ((True, "before"), (False, "after")):
            text = twice(header, key, '"other"' if isinstance(header[key], str) else "17", first)
            cases.append(_case(f"{specimen.name}: {key} again {words} it", specimen, text, ()))
    cases += [
        _case(f"{specimen.name}: header is {w}", specimen, make(json.dumps(header)), ()) for w, make in NO_JSON.items()
    ]
    cases.append(_case(f"{specimen.name}: an unknown field", specimen, json.dumps({**header, "extra": 1}), ()))
    return cases + [
        _case(f"{specimen.name}: format_version {v}", specimen, json.dumps({**header, "format_version": v}), ())
        for v in (2, 0, "2")
    ]


def _case(title: str, specimen: Specimen, text: str | bytes, stated: tuple[Any, ...]) -> Case:
    return Case(title, functools.partial(_make, specimen, text, stated))


def _make(
    specimen: Specimen, text: str | bytes, stated: tuple[Any, ...], rng: np.random.Generator, scratch: Path
) -> Trial:
    raw = specimen.raw
    raw.metadata["blocklora"] = text.decode("latin-1") if isinstance(text, bytes) else text
    return specimen.trial(raw.pack(), scratch, accept=(specimen.facts, *stated))


def _is_first(header: dict[str, Any], path: tuple[Any, ...]) -> bool:
    """Whether a path within the shapes belongs to the first layer."""
    first = next(iter(header["shapes"]))
    return path[1:2] in ((), (first,)) and path[2:3] in ((), (next(iter(header["shapes"][first])),))


def _is_sound(path: tuple[Any, ...], wrong: Wrong) -> bool:
    """Whether a file with other numbers may have this value, so that it is not damage."""
    if path[-1] == "seed":
        return wrong.words in ("0", "-1", "10^9", "10^20", "-10^20", "10^400", "10^5000")
    return path in (("slots", 0), ("slots",)) and wrong.words in ("0", "a list of a number")


def _stated(facts: Any, path: tuple[Any, ...], wrong: Wrong) -> tuple[Any, ...]:
    """Results that are allowed besides the unchanged one: with the new value of the field, if it may have that."""
    field, is_top = path[0], len(path) == 1
    if field in _TEXTS and wrong.words in _PRINTABLE:
        if field == "name" and wrong.words not in ("a word", "a number as text", "100,000 letters"):
            return ()
        return (edited(facts, ("info", field), wrong.value),)
    if field == "alpha" and wrong.words in ("0", "-1", "a fraction", "10^9", "10^20", "-10^20"):
        return (edited(facts, ("info", field), wrong.value),)
    if field in ("base_family", "base_digest", "origin") and wrong.words == "no text":
        return (edited(facts, ("info", field), ""),)
    if field == "training" and wrong.words in ("an empty object", "an object"):
        return (edited(facts, ("info", field), json.dumps(wrong.value)),)
    if (
        field == "partition"
        and len(path) == 1
        and wrong.words == "null"
        and (facts["info"]["partition"] or {}).get("basis")
    ):
        # With a basis, files hold every layer as a whole, as without blocks.
        return (edited(edited(facts, ("info", "partition"), None), ("info", "slots"), []),)
    if field == "tokens_2" and is_top and wrong.words == "an empty object" and not facts["tokens_2"]:
        return (facts,)
    return ()


def _if_missing(facts: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The meaning of a missing field. Files of earlier versions lack some fields."""
    field, is_top = path[0], len(path) == 1
    if not is_top or field not in _DEFAULTS:
        return ()
    if field == "tokens_2":
        return () if facts["tokens_2"] else (facts,)
    return (edited(facts, ("info", field), _DEFAULTS[field]),)


def _container_cases(specimen: Specimen) -> list[Case]:
    """Cases for the header of safetensors."""
    header = specimen.raw.header()
    key = next(name for name, entry in header.items() if name != "__metadata__" and math.prod(entry["shape"]) > 1)
    cases = []
    for field in (("dtype",), ("shape",), ("shape", 0), ("data_offsets",), ("data_offsets", 0), ("data_offsets", 1)):
        for wrong in WRONG_VALUES:
            # The data of the first tensor begin at 0.
            text = with_value(header, (key, *field), wrong.text)
            cases.append(_container(f"{'.'.join(map(str, field))} is {wrong.words}", specimen, text))
    for wrong in WRONG_VALUES:
        cases.append(_container(f"a tensor is {wrong.words}", specimen, with_value(header, (key,), wrong.text)))
        cases.append(
            _container(
                f"texts are {wrong.words}",
                specimen,
                with_value({"__metadata__": {}, **header}, ("__metadata__",), wrong.text),
            )
        )
    cases += [_container(f"header is {words}", specimen, make(json.dumps(header))) for words, make in NO_JSON.items()]
    other = json.dumps({**header[key], "shape": header[key]["shape"][::-1]})
    for first, words in ((True, "before"), (False, "after")):
        cases.append(_container(f"a tensor again {words} it", specimen, twice(header, key, other, first)))
    return [*cases, _container("a deep text", specimen, json.dumps(header)[:-1] + f', "a": {"[" * DEEP}{"]" * DEEP}}}')]


def _container(title: str, specimen: Specimen, text: str | bytes) -> Case:
    def make(rng: np.random.Generator, scratch: Path) -> Trial:
        return specimen.trial(specimen.raw.pack(text), scratch, accept=_unchanged(specimen))

    return Case(f"{specimen.name}: {title}", make)


def _unchanged(specimen: Specimen) -> tuple[Any, ...]:
    """The results that are allowed for a file without texts in its header. Many sound LoRAs have none."""
    if specimen.ours:
        return (specimen.facts,)
    return specimen.facts, edited(edited(specimen.facts, ("info", "trigger"), ""), ("info", "base_name"), "")
