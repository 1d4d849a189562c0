"""Checks that the values in a YAML file have the types of the settings. Errors name the file and the key."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from blocklora_jax.checks.bounds import BOUNDS, check_number
from blocklora_jax.command_line.options import flag_types
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import repeated


def check_settings(where: str, settings: Mapping[str, Any], options: type) -> None:
    """Raises UserError for the first value in `settings` that does not fit its field in `options`.

    where: the file, and the entry in it. settings: by name, with '-' or '_'. Unknown names are not checked.
    """
    hints = flag_types(options)
    # A field may have another name on the command line.
    known = {typed: (field, _bare(hint)) for field, hint in hints.items() for typed in typed_names(field, hint)}
    _refuse_twice(where, settings)
    for name, value in settings.items():
        field, hint = known.get(str(name).replace("-", "_"), ("", None))
        if hint is None:
            continue
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
            _check_group(where, name, value, hint)
        elif not _fits(value, hint):
            raise UserError(f"{where}: {name} must be {_expected(hint)}, not {_told(value)}{_hint(value, hint)}")
        for item in value if isinstance(value, list) else [value]:
            _check_item(f"{where}: {name}", field, item, hint)


def _refuse_twice(where: str, settings: Mapping[str, Any]) -> None:
    if twice := repeated(str(name).replace("-", "_") for name in settings):
        raise UserError(f"{where}: {twice[0]} is given twice")


def _check_item(shown: str, field: str, item: Any, hint: Any) -> None:
    """Raises UserError for a number out of bounds, or a text that the command line would read as a flag."""
    numbers = {int, float} & {kind for choice in _choices(hint) for kind in (choice, *get_args(choice))}
    if numbers and field in BOUNDS and item is not None:
        check_number(field, numbers.pop()(item), shown=shown)
    elif isinstance(item, str) and item.startswith("-") and not numbers:
        raise UserError(f"{shown} must not begin with '-': {_told(item)}")


def _check_group(where: str, name: str, value: Mapping[Any, Any], group: type) -> None:
    known = [field.name for field in dataclasses.fields(group)]
    for key in value:
        if str(key).replace("-", "_") not in known:
            raise UserError(f"{where}: {name} has no {key!r}; it takes {', '.join(known)}")
    check_settings(f"{where}: {name}", value, group)


def typed_names(name: str, hint: Any) -> tuple[str, ...]:
    """The names that the field `name` can have in a file. They are the names of its flag."""
    marks = getattr(hint, "__metadata__", ())
    renamed = next((mark for mark in marks if getattr(mark, "name", None)), None)
    if renamed is None:
        return (name,)
    return (renamed.name, *(alias.lstrip("-").replace("-", "_") for alias in renamed.aliases or ()))


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if hasattr(hint, "__metadata__") else hint


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, choice) for choice in _choices(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if hint is type(None):
        return value is None
    if get_origin(hint) is tuple:
        # One value stands for a list of one.
        items = value if isinstance(value, list) else [value]
        return all(_fits_one(item, get_args(hint)[0]) for item in items)
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return not isinstance(value, bool) and _is_number(value, hint)
    return isinstance(value, str)


def _is_number(value: Any, kind: type) -> bool:
    """YAML reads 1e-4 as a text, so a text that is a number counts as one."""
    if not isinstance(value, (int, str) if kind is int else (int, float, str)):
        return False
    try:
        kind(value)
    except (ValueError, OverflowError):
        return False
    return True


def _expected(hint: Any) -> str:
    return " or ".join(_word(choice) for choice in _choices(hint))


def _word(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return {int: "a list of whole numbers", float: "a list of numbers"}.get(get_args(hint)[0], "a list of texts")
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if dataclasses.is_dataclass(hint):
        return "a mapping of settings"
    names = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", type(None): "null"}
    return names.get(hint, "a text")


def _told(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _hint(value: Any, hint: Any) -> str:
    texts = {str, Path} & set(_choices(hint))
    # YAML reads no, 1.10 and 2024-01-01 as other types than text.
    return ": put it in quotes" if texts and not isinstance(value, (list, dict)) and value is not None else ""
