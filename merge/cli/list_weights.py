"""The weights of a library's list, in what commands measure and in the adapters that they make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from merge.cli.sources import Source

_LARGEST_ALPHA = 1e6


def weighed(adapter: Adapter, weight: float) -> Adapter:
    """The adapter, whose changes are multiplied by `weight`. 1 changes no bit."""
    if weight == 1:
        return adapter
    vectors = {path: np.asarray(vector) * np.float32(weight) for path, vector in adapter.vectors.items()}
    return replace(adapter, vectors=vectors, info=replace(adapter.info, alpha=adapter.info.alpha * weight))


def with_own_weights(sources: Sequence[Source], adapters: Sequence[Adapter]) -> list[Adapter]:
    """The adapters, each with the weight of its source, which a file that is made of it then has.

    Raises: UserError for a weight of 0, with which nothing is left, and for one that is too large for a file.
    """
    pairs = [(source.weight, adapter) for source, adapter in zip(sources, adapters, strict=True)]
    for weight, adapter in pairs:
        if weight == 0:
            raise UserError(f"{adapter.name!r} has the weight 0 in the library: leave it out with `use: false`")
        if abs(adapter.info.alpha * weight) > _LARGEST_ALPHA:
            raise UserError(
                f"the weight {weight:g} of {adapter.name!r} in the library is too large: give a smaller one"
            )
    if shown := [f"{weight:g} of {adapter.name}" for weight, adapter in pairs if weight != 1]:
        print(f"weights of the library that are multiplied in: {', '.join(shown)}")
    return [weighed(adapter, weight) for weight, adapter in pairs]
