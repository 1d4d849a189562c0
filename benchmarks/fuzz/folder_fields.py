"""The JSON files of a Diffusers folder, damaged field by field."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from benchmarks.fuzz.facts import edited
from benchmarks.fuzz.folder_specimens import MANIFEST, Folder
from benchmarks.fuzz.trial import Case, Trial
from benchmarks.fuzz.wrong_values import NO_JSON, WRONG_VALUES, Wrong, fields_of, twice, with_value, without
from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.diffusion.schedule import Schedule

_WORDS = ("a</w>", "man</w>", "<|startoftext|>", "<|endoftext|>")  # of vocab.json
# Values that each kind of field may have besides its own. They are not damage, but change the result.
_SOUND_NUMBERS = frozenset({"0", "a fraction"})
_SOUND_WHOLE = frozenset({"0", "-1", "a list of a number"})
_TEXTS = frozenset({"no text", "a word", "a number as text", "a path upwards", "an absolute path", "100,000 letters"})


def field_cases(folder: Folder) -> list[Case]:
    """Every field of every JSON file but the manifest: with every wrong value, missing, given twice; unknown fields."""
    cases: list[Case] = []
    for name in folder.files(".json"):
        if name == MANIFEST:
            continue
        value = json.loads((folder.path / name).read_text())
        for path in _paths(name, value):
            cases += _field_cases(folder, name, value, path)
        cases += [_case(folder, name, f"is {words}", make(json.dumps(value))) for words, make in NO_JSON.items()]
        bom = b"\xef\xbb\xbf" + json.dumps(value).encode()
        cases.append(_case(folder, name, "with a byte order mark", bom))
        if not name.startswith("tokenizer"):
            cases.append(_case(folder, name, "with an unknown field", json.dumps({**value, "unknown": 1})))
    return cases


def _paths(name: str, value: dict[str, Any]) -> list[tuple[Any, ...]]:
    if name.endswith("vocab.json"):
        return [(word,) for word in _WORDS if word in value]
    paths = fields_of(value, 2)
    if name.endswith(".index.json"):
        return [
            path for path in paths if path[0] == "metadata" or path[1:2] in ((), (next(iter(value["weight_map"])),))
        ]
    return paths


def _field_cases(folder: Folder, name: str, value: dict[str, Any], path: tuple[Any, ...]) -> list[Case]:
    words = ".".join(map(str, path))
    base = functools.reduce(lambda place, key: place[key], path, value)
    cases = [
        _case(
            folder,
            name,
            f"{words} is {wrong.words}",
            with_value(value, path, wrong.text),
            _stated(folder, name, path, wrong),
        )
        for wrong in WRONG_VALUES
        if not _is_sound(name, path, base, wrong)
    ]
    if len(path) == 1:
        missing = _default(folder, name, path[0])
        cases.append(_case(folder, name, f"{words} missing", json.dumps(without(value, path)), missing))
        cases.append(_case(folder, name, f"{words} twice", twice(value, path[0], '"other"', first=False)))
    return cases


def _case(folder: Folder, name: str, words: str, text: str | bytes, accept: tuple[Any, ...] = ()) -> Case:
    def make(rng: np.random.Generator, scratch: Path) -> Trial:
        return folder.trial(scratch, name, text.encode() if isinstance(text, str) else text, accept)

    return Case(f"{folder.name}: {name} {words}"[:150], make)


def _is_sound(name: str, path: tuple[Any, ...], base: Any, wrong: Wrong) -> bool:
    """Whether the file may have this value, so that another result is right."""
    field = str(path[0])
    if isinstance(base, bool):
        return wrong.words in ("true", "false")
    if isinstance(base, float):
        return wrong.words in _SOUND_NUMBERS and (field, wrong.words) != ("scaling_factor", "0")
    if isinstance(base, int) and not name.endswith("vocab.json"):
        # The text encoders of 1.x and 2.x have no projection.
        if field.endswith("token_id") or (field == "projection_dim" and not name.startswith("text_encoder_2")):
            return wrong.words in ("0", "a list of a number")
        is_free = field.endswith(("offset", "shift", "padding"))
        return wrong.words in (_SOUND_WHOLE if is_free else {"a list of a number"}) or (
            field == "freq_shift" and wrong.words == "a fraction"
        )
    if isinstance(base, str) and name.startswith("tokenizer"):
        return wrong.words in _TEXTS
    # The model has one level, so a list of one number is right.
    return field in ("attention_head_dim", "transformer_layers_per_block") and wrong.words in ("a list of a number",)


def _stated(folder: Folder, name: str, path: tuple[Any, ...], wrong: Wrong) -> tuple[Any, ...]:
    """Results that are allowed besides the unchanged one: with null, if the field may be null."""
    part, field = name.split("/")[0], path[0]
    if wrong.words != "null" or len(path) > 1:
        return ()
    if name.endswith("config.json") and part in CONFIGS:
        hint = get_type_hints(CONFIGS[part]).get(field)
        return (edited(folder.facts, ("configs", part, field), None),) if NoneType in get_args(hint) else ()
    return _default(folder, name, field) if part == "scheduler" else ()


def _default(folder: Folder, name: str, field: str) -> tuple[Any, ...]:
    """The meaning of a missing field: the default of diffusers."""
    part = name.split("/")[0]
    place = ("configs", part) if part in CONFIGS else ("schedule",)
    owner = CONFIGS.get(part) if part in CONFIGS else Schedule if part == "scheduler" else None
    known = {item.name: item.default for item in dataclasses.fields(owner)} if owner else {}
    if field not in known or known[field] is dataclasses.MISSING:
        return ()
    return (edited(folder.facts, (*place, field), known[field]),)
