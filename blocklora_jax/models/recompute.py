"""Which intermediate results the backward pass computes again, because they are cheap and large."""

from __future__ import annotations

# Results with fewer numbers than this are kept: 2 MiB in fp32.
KEPT_NUMBERS = 2**19


def is_large(size: int) -> bool:
    """Whether a result of `size` numbers is computed again."""
    return size >= KEPT_NUMBERS
