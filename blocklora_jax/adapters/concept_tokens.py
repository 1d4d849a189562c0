"""The order in which several adapters' concept tokens join one vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from blocklora_jax.adapters.lora import Adapter


def ordered_tokens(adapters: Sequence[Adapter]) -> Iterator[tuple[str, Any]]:
    """(token, vectors [v, d]) in the order in which they are appended: by adapter, then by token name."""
    for adapter in adapters:
        # By name and not as given: jit rebuilds every dict with its keys sorted, and rows must not move under it.
        yield from sorted(adapter.tokens.items())


def token_counts(adapters: Sequence[Adapter]) -> dict[str, int]:
    """{"<p1>": number of vectors, …} in the order in which `merge.compose` appends them and a tokenizer learns them."""
    return {token: int(vectors.shape[0]) for token, vectors in ordered_tokens(adapters)}
