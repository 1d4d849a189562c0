"""Refuses commands without files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.errors import UserError


def required(files: Sequence[Path]) -> Sequence[Path]:
    """`files`. Raises UserError if there are none."""
    if not files:
        raise UserError("name at least one adapter file")
    return files
