"""Finds and reads one adapter that a command takes: a file, a folder, or a repository on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.find import find_adapter, named_as
from blocklora_jax.errors import UserError


class LocalAdapter(NamedTuple):
    """An adapter and its file on this machine."""

    adapter: Adapter
    path: Path


def required(files: Sequence[Path]) -> Sequence[Path]:
    """`files`. Raises UserError if there are none."""
    if not files:
        raise UserError("name at least one adapter file")
    return files


def load_adapter(name: Path, verify: bool) -> LocalAdapter:
    """The adapter that `name` stands for: a file, a folder, or an address on the hub, from which it is downloaded.

    Raises: UserError if it cannot be found or read.
    """
    path = find_adapter(name)
    with named_as(name, path):
        return LocalAdapter(Adapter.load(path, verify), path)
