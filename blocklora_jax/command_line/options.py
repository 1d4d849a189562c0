"""Reads a command line into a class of options, and checks all options alike."""

from __future__ import annotations

import dataclasses
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from blocklora_jax.checks.bounds import BOUNDS, Bound, check_number
from blocklora_jax.checks.texts import is_unicode
from blocklora_jax.command_line.bucket_files import with_local_files
from blocklora_jax.command_line.program import as_called
from blocklora_jax.errors import UserError

T = TypeVar("T")
_LONGEST = 4096  # characters of one argument
# Texts that may be empty.
_MAY_BE_EMPTY = frozenset(
    "prompt prompts negative_prompt preview_prompts owner random_styles random_subjects random_scenes".split()
)
# Lists that must not be empty. Leaving out the flag gives the default.
_NEVER_EMPTY = frozenset("slot blocks counts seeds rates ranks recipes only families".split())


def read_options(options: type[T], args: Sequence[str] | None = None, **settings: Any) -> T:
    """The options that `args` give. args: default: those of the process. settings: further arguments for `tyro.cli`.

    Within `files_in_buckets`, addresses of object stores are replaced by local copies.

    Raises: UserError for an empty path, which would mean the current folder, and whatever the class of options raises.
    """
    args = list(sys.argv[1:] if args is None else args)
    _refuse_unreadable(args)
    _refuse_empty_paths(options, args)
    described = settings.get("description") or options.__doc__ or ""
    if (text := as_called(described)) != described:
        settings["description"] = text
    if "prog" in settings:
        settings["prog"] = as_called(settings["prog"])
    return with_local_files(tyro.cli(options, args=args, **settings))


def check_options(options: Any, bounds: Mapping[str, Bound] | None = None) -> None:
    """Checks that numbers are within their bounds and that texts are not empty. A class of options calls it at its end.

    options: a dataclass, or a namespace of argparse. bounds: those of this class that differ from `bounds.BOUNDS`.

    Raises: UserError naming the flag as it is typed.
    """
    for name, value in vars(options).items():
        several = isinstance(value, (tuple, list))
        if several and not value and name in _NEVER_EMPTY:
            raise UserError(f"{flag_of(options, name)} is given without a value: name at least one, or leave it out")
        for item in value if several else (value,):
            _check(options, name, item, (bounds or {}).get(name))


def flag_types(options: type) -> dict[str, Any]:
    """The type of every flag of a class of options, by field name. Groups whose flags have no prefix are included."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(options, include_extras=True).items():
        is_flat = tyro.conf.OmitArgPrefixes in getattr(hint, "__metadata__", ())
        types |= flag_types(get_args(hint)[0]) if is_flat else {name: hint}
    return types


def flag_of(options: Any, name: str) -> str:
    """The field `name` as it is typed on the command line: "--partition-seed", or "FILE" if it has no flag.

    options: an object, or its class.
    """
    cls = options if isinstance(options, type) else type(options)
    hint = flag_types(cls).get(name) if dataclasses.is_dataclass(cls) else None
    metadata = getattr(hint, "__metadata__", ())
    if tyro.conf.Positional in metadata:
        return name.replace("_", "-").upper()
    renamed = next((mark.name for mark in metadata if getattr(mark, "name", None)), None)
    return f"--{renamed or name.replace('_', '-')}"


def _check(options: Any, name: str, value: Any, bound: Bound | None) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if bound or name in BOUNDS:
            check_number(name, value, shown=flag_of(options, name), bound=bound)
        return
    if not isinstance(value, (str, Path)):
        return
    text = str(value)
    if not text.strip() and name not in _MAY_BE_EMPTY:
        raise UserError(f"{flag_of(options, name)} must not be empty")
    if "\0" in text or not is_unicode(text):
        raise UserError(f"{flag_of(options, name)} {ascii(text)} is not valid text: it must be UTF-8")


def _refuse_unreadable(args: Sequence[str]) -> None:
    """Raises UserError for arguments that a terminal cannot show safely. tyro would print them unchanged."""
    for arg in args:
        if len(arg) > _LONGEST:
            raise UserError(f"an argument of {len(arg)} characters is too long: {arg[:40]!r}…")
        if any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in arg):
            raise UserError(f"the argument {ascii(arg)} has control characters")


def _refuse_empty_paths(options: type, args: Sequence[str]) -> None:
    hints, flag = flag_types(options), ""
    for arg in args:
        flag, equals, value = arg.partition("=") if arg.startswith("--") else (flag, "", arg)
        empty = not value and (bool(equals) or not arg)
        name = flag.removeprefix("--").replace("-", "_")
        if empty and "Path" in str(hints.get(name, Path if not flag else "")):
            raise UserError(f"{flag or 'a file or name'} must not be empty")
