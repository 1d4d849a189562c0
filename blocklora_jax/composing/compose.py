"""Merges concepts into a model's weights: every adapter is added on the blocks that it owns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.composing.check import check_merge
from blocklora_jax.composing.grid import merge_on_grid
from blocklora_jax.composing.overflow import check_overflow, may_overflow
from blocklora_jax.composing.overlap import layers_on_grid, overlapping_layers
from blocklora_jax.composing.placement import any_mesh, placed_like
from blocklora_jax.composing.product import low_rank_product
from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.layouts.token_tables import TOKEN_TABLES

Params = Mapping[str, Any]


class Block(NamedTuple):
    """A low-rank change a [h, r] @ b [r, w] of the rectangle of a kernel [n, m] that starts at (row, column).

    A convolution's kernel [h, w, n, m] counts as [h * w * n, m].
    """

    row: Any
    column: Any
    a: Any
    b: Any


def compose(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    allow_overlap: bool = False,
    check_base: bool = True,
) -> Params:
    """`params` with every adapter merged: W + sum_k w_k dW_k, and the concepts' tokens appended to the token tables.

    Norms and biases that adapters of other programs change are summed in the same way.

    params: {"unet": …, "text_encoder": …, …}, for SDXL "text_encoder_2" too, under the names of Flax Stable Diffusion;
        NumPy or JAX arrays of any float dtype.
    weights: one factor for each adapter (default 1).
    allow_overlap: sum adapters that own the same weights instead of refusing them.
    check_base: refuse params that the adapters were not trained on (skipped inside jit, where there are no values).

    The result has the same structure, dtypes and shardings. Leaves that no adapter changes are the same arrays. Token
    rows are appended in the order of `token_counts(adapters)`. Sums are formed in float32 and cast once. The function
    is pure, and may be jitted with params, adapters and weights as arguments.

    On its own blocks a concept equals, bit for bit, the same concept merged alone. The order of adapters does not
    matter.

    Raises UserError with everything that is wrong: bases, shapes, missing layers, tokens, slots, number of weights, NaN
    or infinity in adapters, and values that overflow the params' type. (The last two are not checked inside jit.)

    Adapters in a basis change the same weights, in directions of their own. Every change, also of one adapter alone, is
    rounded to a grid of step q, which the base's kernel decides, so that sums are exact in any order (see `grid`).
    The merged kernel M and that of concept k alone, M_k, then differ by what the others add on the grid. Along a
    direction u of the concept's own that is, for each output of a kernel [n, m],

        |u^T (M - M_k)| <= sum_{j != k} (|u^T dW_j| + sqrt(n) q / 2) + sqrt(n) q / 2

    where q is 2^-20 to 2^-19 of the largest weight. u^T dW_j is what the directions lack of being orthogonal, in fp32
    about 1e-7 of dW_j. The last term is the rounding of M and M_k while both stay below 8 times the largest weight.

    Source: merging of BlockLoRA (arXiv 2503.08575).

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> merged = compose(params, adapters, weights=[1.0, 0.8])
    >>> table = merged["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    >>> len(table) - 40  # two vectors for each of the tokens <ada> and <bob>
    4
    >>> merged["vae"]["encoder"]["conv_in"]["kernel"] is params["vae"]["encoder"]["conv_in"]["kernel"]
    True
    """
    adapters = list(adapters)
    weights = check_merge(params, adapters, weights, allow_overlap=allow_overlap, check_base=check_base)
    order = canonical_order(adapters, weights)
    # The check at the end reports overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        result, touched = _merged(params, adapters, weights, order)
    check_overflow(params, result, touched, every=may_overflow(adapters, weights))
    return result


def _merged(
    params: Params, adapters: Sequence[Adapter], weights: Sequence[Any], order: Sequence[int]
) -> tuple[Params, set[str]]:
    """`params` with the adapters, and the paths of the leaves that they change. order: the order of summation."""
    blocks = kernel_blocks([adapters[i] for i in order], [weights[i] for i in order])
    overlaps, grid = overlapping_layers(adapters), layers_on_grid(adapters)
    vectors = vector_changes([adapters[i] for i in order], [weights[i] for i in order])
    tables = {path: [rows for _, rows in ordered_tokens(adapters, part)] for part, path in TOKEN_TABLES.items()}

    def merged(path, leaf):
        name = leaf_path(path)
        if name in blocks and name.removesuffix("/kernel") in grid:
            return merge_on_grid(leaf, [(block.a, block.b) for block in blocks[name]])
        if name in blocks:
            return merge_kernel(leaf, blocks[name], name.removesuffix("/kernel") in overlaps)
        if name in vectors:
            return _merge_vector(leaf, vectors[name])
        return _append_rows(leaf, tables[name]) if tables.get(name) else leaf

    touched = {*blocks, *vectors, *(path for path, rows in tables.items() if rows)}
    return jax.tree_util.tree_map_with_path(merged, params), touched


def canonical_order(adapters: Sequence[Adapter], weights: Sequence) -> list[int]:
    """An order of the adapters that does not depend on the order in which they were given.

    It makes sums on shared weights reproducible, because their last bits depend on the order of summation.
    """
    concrete = [0.0 if isinstance(w, Tracer) else float(w) for w in weights]
    keys = [(_all_fields(adapter.info), sorted(adapter.tokens)) for adapter in adapters]
    return sorted(range(len(adapters)), key=lambda i: (*keys[i], concrete[i]))


def _all_fields(info: AdapterInfo) -> str:
    """All fields as text. This text must never change, because it decides the order of summation in merges."""
    values = ", ".join(f"{field.name}={getattr(info, field.name)!r}" for field in fields(info))
    return f"{type(info).__name__}({values})"


def kernel_blocks(adapters: Sequence[Adapter], weights: Sequence) -> dict[str, list[Block]]:
    """The owned rectangles of every adapted kernel, by kernel path. Weight and scale are multiplied into `a`."""
    blocks: dict[str, list[Block]] = defaultdict(list)
    for adapter, weight in zip(adapters, weights, strict=True):
        factor = adapter.info.scale * weight
        factor = factor if isinstance(factor, Tracer) else np.float32(factor)
        for component, layers in adapter.lora.items():
            for layer, pair in layers.items():
                a, b = (x if isinstance(x, Tracer) else np.asarray(x) for x in pair)
                rows, columns = adapter.info.support(component, layer, (a.shape[0], b.shape[1]))
                blocks[f"{component}/{layer}/kernel"] += [
                    Block(r.start, c.start, a[r] * factor, b[:, c]) for r in _runs(rows) for c in _runs(columns)
                ]
    return dict(blocks)


def vector_changes(adapters: Sequence[Adapter], weights: Sequence) -> dict[str, list[tuple[Any, Any]]]:
    """(weight, change [c]) of every adapter that changes a norm or a bias, by its path."""
    changes: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for adapter, weight in zip(adapters, weights, strict=True):
        for path, vector in adapter.vectors.items():
            changes[path].append((weight if isinstance(weight, Tracer) else np.float32(weight), vector))
    return dict(changes)


def _runs(indices: np.ndarray) -> list[slice]:
    """The contiguous runs of sorted `indices` as slices, because indexing with slices needs no gather or copy."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts, stops = np.r_[0, breaks], np.r_[breaks, len(indices)] - 1
    return [slice(int(indices[i]), int(indices[j]) + 1) for i, j in zip(starts, stops, strict=True)]


def merge_kernel(kernel, blocks: list[Block], overlapping: bool):
    """A kernel with the changes `blocks`, in the given order. overlapping: whether some of them share weights."""
    traced = any(isinstance(x, Tracer) for block in blocks for x in (block.a, block.b))
    if isinstance(kernel, np.ndarray) and not traced:
        return _merge_numpy(kernel, blocks, overlapping)
    merged = _merge_jax(kernel, blocks, overlapping)
    return merged if isinstance(merged, Tracer) else placed_like(merged, kernel)


def _merge_numpy(kernel: np.ndarray, blocks: list[Block], overlapping: bool) -> np.ndarray:
    # A matrix view of a 1x1 convolution exists in any memory order, that of a 3x3 convolution only in C order.
    flat = kernel.ndim == 2 or kernel.shape[:2] == (1, 1)
    merged = kernel.copy(order="K" if flat else "C")
    base, target = (x[0, 0] if x.ndim == 4 and flat else x.reshape(-1, x.shape[-1]) for x in (kernel, merged))
    regions = [np.s_[b.row : b.row + b.a.shape[0], b.column : b.column + b.b.shape[1]] for b in blocks]
    deltas = [np.matmul(block.a, block.b) for block in blocks]
    if overlapping:
        total = np.zeros(base.shape, np.float32)
        for region, delta in zip(regions, deltas, strict=True):
            total[region] += delta
        deltas = [total[region] for region in regions]
    for region, delta in zip(regions, deltas, strict=True):
        # Added to the base, not to `target`, because shared rectangles are written twice, with the same values.
        target[region] = base[region].astype(np.float32, copy=False) + delta
    return merged


def _merge_jax(kernel, blocks: list[Block], overlapping: bool):
    def merged(kernel, blocks):
        return _add(kernel, *_change(blocks, kernel.shape, overlapping))

    return any_mesh(merged, kernel)(kernel, blocks)


@partial(jax.jit, static_argnums=(1, 2))
def _change(blocks: list[Block], shape: tuple[int, ...], overlapping: bool):
    """The sum of all changes of a kernel, and a mask of the entries that any adapter owns. Both have its shape."""
    matrix = (prod(shape[:-1]), shape[-1])
    total, owned = jnp.zeros(matrix, jnp.float32), jnp.zeros(matrix, bool)
    for block in blocks:
        delta, start = low_rank_product(block.a, block.b), (block.row, block.column)
        if overlapping:
            delta = delta + lax.dynamic_slice(total, start, delta.shape)
        total = lax.dynamic_update_slice(total, delta, start)
        owned = lax.dynamic_update_slice(owned, jnp.ones(delta.shape, bool), start)
    return total.reshape(shape), owned.reshape(shape)


@jax.jit
def _add(kernel, total, owned):
    # Entries that no adapter owns are kept bit for bit: -0.0 + 0.0 would be 0.0.
    return jnp.where(owned, (kernel.astype(jnp.float32) + total).astype(kernel.dtype), kernel)


def _merge_vector(vector, changes: Sequence[tuple[Any, Any]]):
    if isinstance(vector, np.ndarray) and not any(isinstance(x, Tracer) for pair in changes for x in pair):
        total = sum(weight * np.asarray(change, np.float32) for weight, change in changes)
        return (vector.astype(np.float32) + total).astype(vector.dtype)

    def summed(vector, changes):
        total = sum(weight * jnp.asarray(change, jnp.float32) for weight, change in changes)
        return (vector.astype(jnp.float32) + total).astype(vector.dtype)

    merged = any_mesh(summed, vector)(vector, changes)
    return merged if isinstance(merged, Tracer) else placed_like(merged, vector)


def _append_rows(table, vectors: Sequence):
    rows = [*vectors]
    if isinstance(table, np.ndarray) and not any(isinstance(v, Tracer) for v in rows):
        return np.concatenate([table, *(np.asarray(v, table.dtype) for v in rows)])
    rows = [v if isinstance(v, Tracer) else np.asarray(v) for v in rows]
    merged = any_mesh(_concatenate, table)(table, rows)
    return merged if isinstance(merged, Tracer) else placed_like(merged, table)


@jax.jit
def _concatenate(table, rows):
    return jnp.concatenate([table, *(row.astype(table.dtype) for row in rows)])
