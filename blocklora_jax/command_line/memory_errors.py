"""Errors of memory that ran out, as one line that says what to make smaller."""

from __future__ import annotations

import errno
import re

_ADVICE = (
    "close other programs, or ask for less: fewer or smaller pictures, a smaller --batch or --at-once, a lower --rank"
)
# What XLA says of a device or the host, and NumPy of an array that no memory could hold.
_SIGNS = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate|unable to allocate|allocat\w+ \d+ bytes|"
    r"array is too big|maximum allowed dimension|cannot allocate memory",
    re.IGNORECASE,
)
_SIZE = re.compile(r"[\d.]+ ?(?:[KMGTPE]i?B|bytes)\b", re.IGNORECASE)
_KINDS = {"XlaRuntimeError", "JaxRuntimeError", "ValueError", "RuntimeError"}


def explain_memory(error: BaseException) -> str | None:
    """What to tell the user, if the error says that memory ran out; None if it is of something else."""
    if isinstance(error, OSError):
        found = error.errno == errno.ENOMEM
    elif isinstance(error, MemoryError):
        found = True
    else:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        found = bool(kinds & _KINDS) and _SIGNS.search(str(error)) is not None
    if not found:
        return None
    size = _SIZE.search(str(error))
    asked = f" ({size[0]} were asked for at once)" if size else ""
    return f"not enough memory{asked}: {_ADVICE}"
