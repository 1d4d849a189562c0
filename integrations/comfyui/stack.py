"""What flows between the nodes: LoRA files with their weights and the words that call them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

# The type of the sockets.
STACK = "BLOCKLORA_STACK"


class Entry(NamedTuple):
    """One LoRA. trigger, class_noun: "" if the file says them."""

    path: str
    weight: float = 1.0
    trigger: str = ""
    class_noun: str = ""


Stack = tuple[Entry, ...]


def paths(stack: Stack) -> list[str]:
    """The files."""
    return [entry.path for entry in stack]


def flags(stack: Stack, flag: str, field: str) -> list[str]:
    """The flag with a value for each file; nothing if no entry has one.

    Raises: ValueError naming all files without a value, if others have one; and for a value that would be read as a
    flag, because workflows come from other people.
    """
    values = [getattr(entry, field).strip() for entry in stack]
    missing = [os.path.basename(entry.path) for entry in stack if not getattr(entry, field).strip()]
    if len(missing) == len(stack):
        return []
    word = field.replace("_", " ")
    if flag_like := [value for value in values if value.startswith("-")]:
        raise ValueError(f"a {word} must not begin with '-': {flag_like[0]}")
    if missing:
        raise ValueError(f"give a {word} for each LoRA of the stack, or for none: {', '.join(missing)}")
    return [flag, *values]


def stamp(path: str) -> str:
    """A text that changes when the file does."""
    state = os.stat(path)
    return f"{path}:{state.st_size}:{state.st_mtime_ns}"


def digest(stack: Sequence[Entry], *settings: object) -> str:
    """A short name for the result of a command on these files with these settings."""
    parts = [[stamp(entry.path), *entry[1:]] for entry in stack]
    return hashlib.sha256(json.dumps([parts, [str(x) for x in settings]]).encode()).hexdigest()[:12]
