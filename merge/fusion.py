"""Gradient fusion: weights that treat every concept's own layer inputs as that concept's adapter does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.errors import UserError
from merge.check import check_merge, leaf_path
from merge.compose import Params, compose
from merge.task_vectors import layer_delta


def fuse(
    params: Params,
    adapters: Sequence[Adapter],
    grams: Mapping[str, Sequence[Float[np.ndarray, "n n"]]],
    *,
    ridge: float = 1e-4,
    check_base: bool = True,
) -> Params:
    """`params` where every adapted kernel W is W + D with the least sum_k |X_k D - X_k dW_k|^2 + r |D|^2, tokens appended.

    Args:
        params, adapters: as for `compose`; the adapters may own the same weights.
        grams: for each adapted layer ("unet/…/to_k") one matrix X_k^T X_k [n, n] an adapter, in their order, where
            the rows of X_k are inputs that the layer gets while concept k is drawn.
        ridge: r as a share of the inputs' mean square; it decides where no concept has any inputs: there D = 0.

    Raises: UserError as `compose` does, or naming the layers without matrices of the right number and shape.

    Source: Mix-of-Show (arXiv 2305.18292), gradient fusion; there by L-BFGS, here in closed form.
    """
    check_merge(params, adapters, None, allow_overlap=True, check_base=check_base)
    layers = sorted({f"{c}/{layer}" for adapter in adapters for c, group in adapter.lora.items() for layer in group})
    if missing := [layer for layer in layers if len(grams.get(layer, ())) != len(adapters)]:
        raise UserError(f"fusion needs one matrix of inputs an adapter for every adapted layer; not so: {missing}")

    def fused(path, leaf):
        layer = leaf_path(path).removesuffix("/kernel")
        if not leaf_path(path).endswith("/kernel") or layer not in layers:
            return leaf
        deltas = [np.asarray(layer_delta(adapter, layer, leaf.shape)) for adapter in adapters]
        change = fusion_rule(deltas, grams[layer], ridge).reshape(leaf.shape)
        return np.asarray(np.asarray(leaf, np.float32) + change, leaf.dtype)

    with_tokens = compose(params, [replace(adapter, lora={}) for adapter in adapters], check_base=False)
    return jax.tree_util.tree_map_with_path(fused, with_tokens)


def fusion_rule(
    deltas: Sequence[Float[np.ndarray, "n m"]], grams: Sequence[Float[np.ndarray, "n n"]], ridge: float
) -> Float[np.ndarray, "n m"]:
    """(sum_k G_k + r I)^-1 sum_k G_k dW_k, solved in float64."""
    wrong = [gram.shape for gram, delta in zip(grams, deltas, strict=True) if gram.shape != (len(delta),) * 2]
    if wrong:
        raise UserError(f"fusion's matrices must be [n, n] for a kernel [n, m] = {list(deltas[0].shape)}, not {wrong}")
    exact = [np.asarray(gram, np.float64) for gram in grams]
    total = np.sum(exact, axis=0)
    # Never quite zero: a layer that got no inputs at all is to stay as it is.
    total += max(ridge * np.trace(total) / len(total), 1e-30) * np.eye(len(total))
    wanted = np.sum([gram @ delta for gram, delta in zip(exact, deltas, strict=True)], axis=0)
    return np.linalg.solve(total, wanted).astype(np.float32)
