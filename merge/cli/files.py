"""Reads the adapter files that commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError


def required(files: Sequence[Path]) -> Sequence[Path]:
    """`files`. Raises UserError if there are none."""
    if not files:
        raise UserError("name at least one adapter file")
    return files


def load_adapters(files: Sequence[Path], verify: bool) -> list[Adapter]:
    """The adapters in `files`. Raises UserError if there are none, or if one cannot be read."""
    return [Adapter.load(path, verify) for path in required(files)]
