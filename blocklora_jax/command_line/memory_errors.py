"""Explains out-of-memory errors in one line that says what to make smaller."""

from __future__ import annotations

import errno
import re

_ADVICE = (
    "close other programs, or ask for less: fewer or smaller pictures, a smaller --batch or --at-once, a lower --rank;"
    " in training also --remat, --precision bfloat16, --base-dtype bfloat16 or a smaller --resolution;"
    " in merge fit, convert and check a smaller --memory"
)
# Messages of XLA about a device or the host, and of NumPy about an array that is too large for any memory.
_SIGNS = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate|unable to allocate|allocat\w+ \d+ bytes|"
    r"STATUS_ALLOC_FAILED|"  # cuDNN and cuBLAS
    r"array is too big|maximum allowed dimension|cannot allocate memory",
    re.IGNORECASE,
)
# TPUs say "1.5G".
_SIZE = re.compile(r"\d[\d.]* ?(?:[KMGTPE]i?B|[KMGT]|bytes)\b", re.IGNORECASE)
_KINDS = {"XlaRuntimeError", "JaxRuntimeError", "ValueError", "RuntimeError"}


def explain_memory(error: BaseException) -> str | None:
    """The message for the user if memory ran out; None for any other error."""
    if isinstance(error, OSError):
        out_of_memory = error.errno == errno.ENOMEM
    elif isinstance(error, MemoryError):
        out_of_memory = True
    else:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        out_of_memory = bool(kinds & _KINDS) and _SIGNS.search(str(error)) is not None
    if not out_of_memory:
        return None
    size = _SIZE.search(str(error))
    request = f" ({size[0]} were requested at once)" if size else ""
    return f"not enough memory{request}: {_ADVICE}"
