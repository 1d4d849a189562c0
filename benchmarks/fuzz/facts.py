"""Loaded values as plain data that can be compared. Arrays become texts with their type, shape and digest."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NOT_FINITE = "not finite"
_DIGEST = re.compile(r"[0-9a-f]{64}$")


def facts_of(value: Any) -> Any:
    """`value` as JSON: dataclasses and mappings as dicts, arrays as text. Equal facts mean equal values, bit for bit.

    >>> facts_of({"a": (1.0, True)})
    {'a': [1, 'True']}
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_ | Path):
        return str(value)  # because in Python True == 1
    if isinstance(value, int | float):
        return _number(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: facts_of(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): facts_of(item) for key, item in value.items()}
    if isinstance(value, Image.Image):
        return f"{value.mode} {_array(np.asarray(value))}"
    if hasattr(value, "shape"):
        return _array(np.asarray(value))
    if isinstance(value, Sequence | set | frozenset):
        return [facts_of(item) for item in value]
    return repr(value)


def edited(facts: Any, path: Sequence[str | int], value: Any) -> Any:
    """A copy of `facts` with `value` at `path`."""
    result = copy.deepcopy(facts)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = facts_of(value)
    return result


def is_finite(facts: Any) -> bool:
    """Whether every array is finite."""
    return NOT_FINITE not in str(facts)


def without_numbers(facts: Any) -> Any:
    """`facts` with only the types and shapes of arrays."""
    if isinstance(facts, dict):
        return {key: without_numbers(item) for key, item in facts.items()}
    if isinstance(facts, list):
        return [without_numbers(item) for item in facts]
    return _DIGEST.sub("", facts) if isinstance(facts, str) else facts


def _number(value: float) -> Any:
    if isinstance(value, float) and value != value:
        return "nan"
    return int(value) if value == value and abs(value) < 1e300 and value == int(value) else value


def _array(array: np.ndarray) -> str:
    name = f"{array.dtype.name} {list(array.shape)}"
    # Arrays with zero strides take no memory, whatever their shape. They stand for missing values.
    if array.size and not any(array.strides):
        return f"{name} of {array.reshape(-1)[:1].tolist() if array.size < 9 else array.flat[0]}"
    finite = array.dtype.kind not in "fV" or bool(np.isfinite(array.astype(np.float32)).all())
    digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    return f"{name} {'' if finite else NOT_FINITE} {digest}"
