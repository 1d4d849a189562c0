"""Makes one LoRA of several adapters: the sum of N adapters is a LoRA whose rank is the sum of their ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.finite import is_finite, narrow
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
    stacked: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for component, layer, pair in concatenate_each(adapters, weights, allow_overlap=allow_overlap):
        stacked.setdefault(component, {})[layer] = pair
    return stacked


def concatenate_each(
    adapters: Sequence[Adapter], weights: Sequence[Any] | None = None, *, allow_overlap: bool = False
) -> Iterator[tuple[str, str, tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r m"]]]]:
    """Like `concatenate`, one layer at a time: (component, layer path, (A, B)). Layers of a component come together."""
    weights = check_adapters(adapters, weights, allow_overlap=allow_overlap)
    names: dict[str, dict[str, None]] = {}
    for adapter in adapters:
        for component, layers in adapter.lora.items():
            names.setdefault(component, {}).update(dict.fromkeys(layers))
    for component, layers in names.items():
        for layer in layers:
            pairs = [
                (_scaled(f"{component}/{layer}", pair[0], adapter.info.scale * float(weight)), np.asarray(pair[1]))
                for adapter, weight in zip(adapters, weights, strict=True)
                if (pair := adapter.lora.get(component, {}).get(layer)) is not None
            ]
            yield component, layer, _stack(pairs)


def _stack(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([a for a, _ in pairs], axis=1), np.concatenate([b for _, b in pairs])


def _scaled(name: str, a: Any, factor: float) -> np.ndarray:
    """a * factor in fp32. Raises UserError naming the layer if a value is beyond the range of fp32."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.asarray(a) * np.float32(factor)
    if not is_finite(scaled):
        narrow(name, np.asarray(a, np.float64) * factor, scaled.dtype)
    return scaled
