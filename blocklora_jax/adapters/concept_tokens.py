"""The order in which the concept tokens of several adapters are added to a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blocklora_jax.adapters.adapter_like import AdapterLike


def ordered_tokens(adapters: Sequence[AdapterLike], component: str = "text_encoder") -> Iterator[tuple[str, Any]]:
    """(token, vectors [v, d]) for a text encoder, in the order in which they are appended to its table.

    This is the order of the adapters, and within an adapter the order of the names.
    """
    for adapter in adapters:
        # Sorted by name, because jit rebuilds every dict with sorted keys, and the rows must not change place.
        yield from sorted(tokens_of(adapter, component).items())


def tokens_of(adapter: AdapterLike, component: str) -> Mapping[str, Any]:
    """{"<p1>": vectors [v, d]} for the text encoder "text_encoder" or "text_encoder_2"."""
    return adapter.tokens_2 if component == "text_encoder_2" else adapter.tokens


def token_counts(adapters: Sequence[AdapterLike]) -> dict[str, int]:
    """{"<p1>": number of vectors, …} in the order in which `merge.compose` appends them and a tokenizer learns them.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> token_counts(adapters)
    {'<ada>': 2, '<bob>': 2}
    """
    return {token: int(vectors.shape[0]) for token, vectors in ordered_tokens(adapters)}
