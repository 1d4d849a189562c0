"""What a task gives: rows of results, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Rows = Iterator[dict[str, Any]]


def one_line(error: BaseException, longest: int = 300) -> str:
    """The error in one line. Those of compilers are pages long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= longest else f"{text[:longest]}…"
