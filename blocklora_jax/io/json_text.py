"""Reads JSON and YAML from untrusted files. Size and depth are bounded, keys are unique, and text can be printed."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from blocklora_jax.errors import UserError

LARGEST = 64 << 20  # bytes; the tokenizer of a large model has 4 MB
LARGEST_YAML = 1 << 20
DEEPEST = 64
_MOST_VALUES = 1 << 22  # in one file


def read_json(path: Path, *, infinity: bool = False) -> Any:
    """The value in a JSON file; see `parse_json`. Also raises UserError if the file is missing."""
    return parse_json(read_text_bytes(path, LARGEST), str(path), infinity=infinity)


def parse_json(text: bytes | str, source: str, *, infinity: bool = False) -> Any:
    """The value that a JSON text holds.

    Args:
        text: bytes in UTF-8 (a byte-order mark is skipped), or a string.
        source: where the text is from, for messages.
        infinity: whether NaN and infinite numbers are allowed; some programs write `-Infinity`.

    Raises:
        UserError: the text is not JSON, has a key twice in one object, is nested deeper than 64 levels, or has a number
            that is not finite or a lone surrogate, which cannot be printed.
    """

    def constant(name: str) -> float:
        if not infinity:
            raise ValueError(f"{name} is not a JSON number")
        return float(name)

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value) and not infinity:
            raise ValueError(f"the number {digits[:20]} is too large")
        return value

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=constant, parse_float=number)
        _check(value)
    except RecursionError as error:
        raise UserError(f"cannot read {source}: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"cannot read {source}: {_reason(error)}") from error
    return value


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; {} for an empty file. Keys become text.

    Raises: UserError if the file is missing, malformed, not a mapping, too large or too deep, or if it has aliases or a
        key twice.
    """
    raw = parse_yaml(read_text_bytes(path, LARGEST_YAML), str(path))
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise UserError(f"{path} must be a mapping of settings, with `name: value` on each line")
    return {str(name): value for name, value in raw.items()}


def parse_yaml(text: bytes, source: str) -> Any:
    """The value that a YAML text holds.

    Raises: UserError like `parse_json`, and for aliases, which can expand endlessly.
    """
    try:
        value = yaml.load(text.decode("utf-8-sig"), Loader=_PlainLoader)  # a SafeLoader
        _check(value)
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not valid YAML: it is not UTF-8 text") from error
    except RecursionError as error:
        raise UserError(f"{source} is not valid YAML: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    return value


def read_text_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of an ordinary file of at most `largest` bytes.

    Raises: UserError if the file is missing, larger, or not an ordinary file.
    """
    try:
        if not path.exists():
            raise UserError(f"cannot read {path}: No such file or directory")
        if not path.is_file():
            raise UserError(
                f"cannot read {path}: {'Is a directory' if path.is_dir() else 'it is not an ordinary file'}"
            )
        with path.open("rb") as file:
            text = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(text) > largest:
        raise UserError(f"cannot read {path}: it is larger than {largest >> 20} MB, the most that is read")
    return text


def repeated(items: Iterable[Hashable]) -> list[Any]:
    """The items that also occur earlier, in their order. The time is linear, because files may hold very many."""
    seen: set[Hashable] = set()
    found = []
    for item in items:
        if item in seen:
            found.append(item)
        seen.add(item)
    return found


class _PlainLoader(yaml.SafeLoader):
    """Refuses YAML with aliases or with a key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported: write the value itself")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        # Lists and mappings, which are no keys, are refused below.
        if twice := repeated(key for key in keys if isinstance(key, Hashable)):
            raise yaml.YAMLError(f"the key {twice[0]!r} occurs twice")
        return super().construct_mapping(node, deep)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"the key {repeated(name for name, _ in pairs)[0]!r} occurs twice")
    return mapping


def _check(value: Any) -> None:
    """Raise ValueError for too many levels or values, or for text that cannot be encoded.

    This is a loop, because Python limits recursion.
    """
    level, seen = [value], 0
    for _ in range(DEEPEST):
        if not level:
            return
        seen += len(level)
        if seen > _MOST_VALUES:
            raise ValueError("it holds too many values")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple | set):
                below += item
            elif isinstance(item, str):
                item.encode()  # UnicodeEncodeError, which is a ValueError, for a lone surrogate
        level = below
    raise ValueError(f"it is nested deeper than {DEEPEST}")


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, UnicodeEncodeError):
        return "it has text with half a character (a lone surrogate)"
    return f"it is not valid JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
