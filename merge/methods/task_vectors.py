"""Merging by whole changes of weights ("task vectors"), as in TIES and DARE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.delta import kernel_change
from blocklora_jax.composing.check import check_merge
from blocklora_jax.composing.overflow import check_overflow
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import leaf_path
from merge.compose import compose

Params = Mapping[str, Any]
# The change [n, m] of a layer ("unet/…/to_k") whose kernel has this shape.
Change = Callable[[str, tuple[int, ...]], Float[Array | np.ndarray, "n m"]]
# Combines the changes of a kernel by k adapters into one: changes [k, n, m], weights [k] -> change [n, m].
Rule = Callable[[Float[Array, "k n m"], Float[Array, " k"]], Float[Array, "n m"]]


def check_density(density: float) -> None:
    """Raises UserError for a share of entries outside (0, 1]."""
    if not 0 < density <= 1:
        raise UserError(f"density must be in (0, 1], not {density}")


def merge_task_vectors(
    params: Params, adapters: Sequence[Adapter], weights: Sequence[Any] | None, rule: Rule, *, check_base: bool = True
) -> Params:
    """`params` where every adapted kernel W becomes W + rule([dW_1, …, dW_k], weights). Tokens are appended.

    An adapter without the layer has dW = 0 there. Norms and biases are summed. Sums are formed in fp32 and cast once.
    Other leaves are the same arrays.

    Raises: UserError like `compose`, except that the adapters may own the same weights.
    """
    factors = jnp.asarray(
        check_merge(params, adapters, weights, allow_overlap=True, check_base=check_base), jnp.float32
    )
    apply_rule = jax.jit(rule)

    def change(layer: str, shape: tuple[int, ...]) -> Array:
        return apply_rule(jnp.stack([layer_delta(adapter, layer, shape) for adapter in adapters]), factors)

    return change_layers(params, adapters, list(factors), change)


def change_layers(params: Params, adapters: Sequence[Adapter], weights: Sequence[Any], change: Change) -> Params:
    """`params` where every kernel that an adapter changes becomes W + change(layer, shape). Tokens are appended.

    The adapters must have been checked. weights: only for norms and biases, which are summed. Sums are formed in fp32
    and cast once. Other leaves are the same arrays.

    Raises: UserError if a sum overflows the type of the params.
    """
    layers = {f"{c}/{layer}" for adapter in adapters for c, group in adapter.lora.items() for layer in group}

    def merged(path, leaf):
        layer = leaf_path(path).removesuffix("/kernel")
        if not leaf_path(path).endswith("/kernel") or layer not in layers:
            return leaf
        total = jnp.asarray(change(layer, leaf.shape))
        return (jnp.asarray(leaf, jnp.float32) + total.reshape(leaf.shape)).astype(leaf.dtype)

    # Tokens are appended, and norms and biases are summed: they have no matrices that a rule could combine.
    others = [replace(adapter, lora={}) for adapter in adapters]
    with_tokens = compose(params, others, weights, allow_overlap=True, check_base=False)
    result = jax.tree_util.tree_map_with_path(merged, with_tokens)
    check_overflow(params, result, {f"{layer}/kernel" for layer in layers}, every=True)
    return result


def weighted_sum(changes: Float[Array, "k n m"], weights: Float[Array, " k"]) -> Float[Array, "n m"]:
    """sum_k w_k dW_k, as a product: it needs the changes whole.

    Within a sum, XLA makes each entry by itself, with the random numbers and comparisons that it depends on. On CPUs
    this takes ten times as long.
    """
    return jnp.tensordot(weights, changes, axes=1, precision=jax.lax.Precision.HIGHEST)


def layer_delta(adapter: Adapter, layer: str, shape: tuple[int, ...]) -> Float[Array, "n m"]:
    """dW of a layer ("unet/…/to_k") whose kernel has `shape`; zeros if the adapter has no such layer.

    A convolution's kernel [h, w, n, m] counts as [h * w * n, m], as in `LoRAPair`.
    """
    pair = adapter.lora.get(layer.split("/", 1)[0], {}).get(layer.split("/", 1)[1])
    if pair is None:
        return jnp.zeros((prod(shape[:-1]), shape[-1]), jnp.float32)
    return kernel_change(pair, adapter.info.scale)
