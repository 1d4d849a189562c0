"""Makes one LoRA of several adapters: the sum of N adapters is a LoRA whose rank is the sum of their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.scaled import scaled
from blocklora_jax.composing.check import check_adapters


def concatenate(
    adapters: Sequence[Adapter], weights: Sequence[Any] | None = None, *, allow_overlap: bool = False
) -> dict[str, dict[str, tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r m"]]]]:
    """{component: {layer path: (A [n, sum r], B [sum r, m])}}, where A @ B is the whole change of the layer's kernel.

    Weight and scale are multiplied into A. The result is exact, without an SVD, also for negative weights. A layer's
    rank counts only the adapters that have the layer. Raises UserError, like `compose`, for adapters that cannot be
    merged with each other.

    Source: blockwise parameterization of BlockLoRA (arXiv 2503.08575).

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> layers = concatenate(adapters)["unet"]
    >>> a, b = layers["mid_block/attentions_0/transformer_blocks_0/attn2/to_k"]
    >>> a.shape, b.shape  # each adapter has rank 2
    ((32, 4), (4, 32))
    """
    weights = check_adapters(adapters, weights, allow_overlap=allow_overlap)
    pairs: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for component, layers in adapter.lora.items():
            for layer, (a, b) in layers.items():
                folded = scaled(f"{component}/{layer}", a, adapter.info.scale * float(weight)), np.asarray(b)
                pairs.setdefault(component, {}).setdefault(layer, []).append(folded)
    return {component: {layer: _stack(group) for layer, group in layers.items()} for component, layers in pairs.items()}


def _stack(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([a for a, _ in pairs], axis=1), np.concatenate([b for _, b in pairs])
