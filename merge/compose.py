"""Merging concepts into a model's weights at once: every adapter is added on the blocks that it owns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from blocklora_jax.adapters.concept_tokens import ordered_tokens
from blocklora_jax.adapters.lora import Adapter
from merge.check import TOKEN_TABLE, check_merge, leaf_path, overlapping_layers

Params = Mapping[str, Any]


class Block(NamedTuple):
    """A low-rank change of the rectangle of a kernel [n, m] that starts at (row, column): a [h, r] @ b [r, w]."""

    row: Any
    column: Any
    a: Any
    b: Any


def compose(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    *,
    allow_overlap: bool = False,
    check_base: bool = True,
) -> Params:
    """`params` with every adapter merged: W + sum_k w_k dW_k, and the concepts' tokens appended to the token table.

    params: {"unet": …, "text_encoder": …, …}, the names of Flax Stable Diffusion, numpy or JAX arrays of any float dtype.
    weights: one factor for each adapter (default 1). Token rows join in the order of `token_counts(adapters)`.
    allow_overlap: sum adapters that own the same weights instead of refusing them.
    check_base: refuse params that the adapters were not trained on (skipped inside jit, where there are no values).
    Gives the same structure, dtypes and shardings; leaves that no adapter touches are the same arrays.
    Sums are formed in float32 and cast once. Pure, and may be jitted with params, adapters and weights as arguments.

    Raises UserError with everything that is wrong: bases, shapes, missing layers, tokens, slots, number of weights.

    Source: method, "Merge". On its own block a concept equals, bit for bit, the concept merged alone, in any order.
    """
    adapters = list(adapters)
    weights = check_merge(params, adapters, weights, allow_overlap=allow_overlap, check_base=check_base)
    order = canonical_order(adapters, weights)
    overlaps = overlapping_layers(adapters)
    blocks = kernel_blocks([adapters[i] for i in order], [weights[i] for i in order])
    vectors = [vectors for _, vectors in ordered_tokens(adapters)]

    def merged(path, leaf):
        name = leaf_path(path)
        if name in blocks:
            return _merge_kernel(leaf, blocks[name], name.removesuffix("/kernel") in overlaps)
        return _append_rows(leaf, vectors) if name == TOKEN_TABLE and vectors else leaf

    return jax.tree_util.tree_map_with_path(merged, params)


def canonical_order(adapters: Sequence[Adapter], weights: Sequence) -> list[int]:
    """An order of the adapters that does not depend on how they were given, so that sums on shared weights do not either."""
    concrete = [0.0 if isinstance(w, jax.core.Tracer) else float(w) for w in weights]
    return sorted(range(len(adapters)), key=lambda i: (repr(adapters[i].info), sorted(adapters[i].tokens), concrete[i]))


def kernel_blocks(adapters: Sequence[Adapter], weights: Sequence) -> dict[str, list[Block]]:
    """The owned rectangles of every adapted kernel, by kernel path, with weight and scale folded into `a`."""
    blocks: dict[str, list[Block]] = defaultdict(list)
    for adapter, weight in zip(adapters, weights, strict=True):
        factor = adapter.info.scale * weight
        factor = factor if isinstance(factor, jax.core.Tracer) else np.float32(factor)
        for component, layers in adapter.lora.items():
            for layer, pair in layers.items():
                a, b = (x if isinstance(x, jax.core.Tracer) else np.asarray(x) for x in pair)
                rows, columns = adapter.info.support(component, layer, (a.shape[0], b.shape[1]))
                blocks[f"{component}/{layer}/kernel"] += [
                    Block(r.start, c.start, a[r] * factor, b[:, c]) for r in _runs(rows) for c in _runs(columns)
                ]
    return dict(blocks)


def _runs(indices: np.ndarray) -> list[slice]:
    """The contiguous runs of sorted `indices`: slices are read and written in place, index arrays are gathered."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts, stops = np.r_[0, breaks], np.r_[breaks, len(indices)] - 1
    return [slice(int(indices[i]), int(indices[j]) + 1) for i, j in zip(starts, stops, strict=True)]


def _merge_kernel(kernel, blocks: list[Block], overlapping: bool):
    traced = any(isinstance(x, jax.core.Tracer) for block in blocks for x in (block.a, block.b))
    if isinstance(kernel, np.ndarray) and not traced:
        return _merge_numpy(kernel, blocks, overlapping)
    merged = _merge_jax(kernel, blocks, overlapping=overlapping)
    return merged if isinstance(merged, jax.core.Tracer) else _like(merged, kernel)


def _merge_numpy(kernel: np.ndarray, blocks: list[Block], overlapping: bool) -> np.ndarray:
    merged = kernel.copy(order="K")
    # 1x1 convolutions: a view, whatever the memory order.
    base, target = (x[0, 0] if x.ndim == 4 else x for x in (kernel, merged))
    regions = [np.s_[b.row : b.row + b.a.shape[0], b.column : b.column + b.b.shape[1]] for b in blocks]
    deltas = [np.matmul(block.a, block.b) for block in blocks]
    if overlapping:
        total = np.zeros(base.shape, np.float32)
        for region, delta in zip(regions, deltas, strict=True):
            total[region] += delta
        deltas = [total[region] for region in regions]
    for region, delta in zip(regions, deltas, strict=True):
        # From the base, not in place: shared rectangles are written twice with the same values.
        target[region] = base[region].astype(np.float32, copy=False) + delta
    return merged


@partial(jax.jit, static_argnames="overlapping")
def _merge_jax(kernel, blocks: list[Block], *, overlapping: bool):
    base = kernel.reshape(kernel.shape[-2:])
    # The barrier keeps XLA from fusing the product into the sum, which would round otherwise than a concept alone.
    deltas = lax.optimization_barrier(
        [jnp.dot(b.a, b.b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32) for b in blocks]
    )
    if overlapping:
        total = jnp.zeros(base.shape, jnp.float32)
        for block, delta in zip(blocks, deltas, strict=True):
            total = _write(total, block, _read(total, block, delta.shape) + delta)
        deltas = [_read(total, block, delta.shape) for block, delta in zip(blocks, deltas, strict=True)]
    merged = base
    for block, delta in zip(blocks, deltas, strict=True):
        region = _read(base, block, delta.shape).astype(jnp.float32) + delta
        merged = _write(merged, block, region.astype(kernel.dtype))
    return merged.reshape(kernel.shape)


def _read(x, block: Block, shape: tuple[int, int]):
    return lax.dynamic_slice(x, (block.row, block.column), shape)


def _write(x, block: Block, region):
    return lax.dynamic_update_slice(x, region, (block.row, block.column))


def _append_rows(table, vectors: Sequence):
    rows = [*vectors]
    if isinstance(table, np.ndarray) and not any(isinstance(v, jax.core.Tracer) for v in rows):
        return np.concatenate([table, *(np.asarray(v, table.dtype) for v in rows)])
    rows = [v if isinstance(v, jax.core.Tracer) else np.asarray(v) for v in rows]
    merged = _concatenate(table, rows)
    return merged if isinstance(merged, jax.core.Tracer) else _like(merged, table)


@jax.jit
def _concatenate(table, rows):
    return jnp.concatenate([table, *(row.astype(table.dtype) for row in rows)])


def _like(merged: jax.Array, original):
    """`merged` where and how `original` lies on the devices."""
    if not isinstance(original, jax.Array) or merged.sharding == original.sharding:
        return merged
    return jax.device_put(merged, original.sharding)
