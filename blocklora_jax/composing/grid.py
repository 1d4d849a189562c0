"""Sums of changes that do not depend on the order, and from which one can be taken out again, bit for bit.

Adapters in a basis change the same weights. So each change dW_k of a kernel W, with weight and scale in it, is first
rounded to a grid of step q, which the base's kernel alone decides:

    q = 2^(e - 20), where 2^e is the least power of two above max|W|
    M = fl(W + q S),  S = sum_k n_k,  n_k = round(dW_k / q), whole numbers

- S is exact, so that the order makes no difference: NumPy sums in fp64 (to 2^53), JAX in two parts of fp32 (to 2^36,
  which is 2^16 times 2^e). Larger sums are rounded, in the order of `canonical_order`. q S and W + q S are formed in
  fp32; q S is exact up to 2^24 steps.
- S can be read off M. Where |M| < 2^23 q, M is off by half a unit in its last place, at most q / 4, so that
  S = round((M - W) / q) and no other sum gives M. 2^23 q is 8 times 2^e: the sum may be 7 times as large as the largest
  weight. Up to 2^24 q, M may be off by q / 2; then two sums give it where W lies halfway between two steps. Beyond, two
  always may. `is_on_grid` tells: the sums that give M are neighbours, so it tries S - 1 and S + 1.
- A change is off by q / 2 at most, which is 2^-21 of 2^e.

A kernel of zeros, or one whose weights are all below 2^-64, counts as one with e = 0.

In NumPy n_k is a function of the adapter alone, on every machine: the factors are rounded to so few digits (23 or more)
that their product is exact in fp64. In JAX dW_k is a product in fp32, which another device may round otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from blocklora_jax.composing import grid_jax
from blocklora_jax.composing.grid_step import DIGITS, LEAST
from blocklora_jax.composing.placement import any_mesh, placed_like

# lora_A [n, r] with weight and scale in it, lora_B [r, m].
Pair = tuple[Any, Any]
Counts = Float[np.ndarray, "n m"]


def merge_on_grid(kernel: Any, pairs: Sequence[Pair]) -> Any:
    """fl(W + q sum_k n_k), in the kernel's shape, type and place; NumPy or JAX as the kernel is."""
    if _in_numpy(kernel, pairs):
        step = grid_step(kernel)
        return _added(kernel, _sum_counts(kernel, pairs, step), step)
    return _placed(any_mesh(grid_jax.merge, kernel)(kernel, list(pairs)), kernel)


def exchange_on_grid(merged: Any, base: Any, pairs: Sequence[Pair]) -> Any:
    """`merged`, a merge into the kernel `base`, with the changes `pairs` added; fp32. See `is_on_grid`.

    A change is taken out by adding it with its weight negated.
    """
    if _in_numpy(merged, pairs):
        base = np.asarray(base)
        step = grid_step(base)
        total = _sum_counts(base, pairs, step, start=_found_counts(merged, base, step))
        return _added(base, total, step)
    return _placed(any_mesh(grid_jax.exchange, merged)(merged, base, list(pairs)), merged)


def is_on_grid(merged: Any, base: Any) -> bool:
    """Whether `merged` is fl(W + q S) for the kernel W = `base` and for one S only. Both fp32, not traced."""
    if not _in_numpy(merged, ()):
        return bool(grid_jax.is_on_grid(merged, base))
    base = np.asarray(base)
    step = grid_step(base)
    found = _found_counts(merged, base, step)
    below, same, above = (_added(base, found + more, step) == merged for more in (-1, 0, 1))
    return bool(np.all(same & ~below & ~above))


def grid_step(kernel: np.ndarray) -> float:
    """q of a kernel of the base; infinities and NaN in it do not count."""
    largest = max(float(kernel.max(initial=0)), -float(kernel.min(initial=0)))
    if not math.isfinite(largest):
        largest = float(np.abs(kernel[np.isfinite(kernel)].astype(np.float32)).max(initial=0))
    return math.ldexp(1.0, (math.frexp(largest)[1] if largest >= LEAST else 0) - DIGITS)


def _in_numpy(kernel: Any, pairs: Iterable[Pair]) -> bool:
    return isinstance(kernel, np.ndarray) and not any(isinstance(x, Tracer) for pair in pairs for x in pair)


def _placed(merged: Any, original: Any) -> Any:
    return merged if isinstance(merged, Tracer) else placed_like(merged, original)


def _sum_counts(kernel: np.ndarray, pairs: Sequence[Pair], step: float, start: Counts | None = None) -> Counts:
    """sum_k n_k, after `start`: whole numbers in fp64, as a matrix."""
    total = np.zeros((math.prod(kernel.shape[:-1]), kernel.shape[-1]))
    if start is not None:
        total += start
    for a, b in pairs:
        counts = exact_product(a, b, step)
        total += np.rint(counts, out=counts)
    return total


def exact_product(a: np.ndarray, b: np.ndarray, step: float) -> Float[np.ndarray, "n m"]:
    """a @ b / step in fp64, for factors rounded to so few digits that no sum of products is rounded.

    The digits count from the largest entry of each factor: 25 up to rank 8, 24 up to rank 32, 23 up to rank 128.
    """
    digits = (53 - max(a.shape[1] - 1, 0).bit_length()) // 2
    (left, shift), (right, other) = _whole(a, digits), _whole(b, digits)
    # A power of two, with which all products stay exact.
    scale = shift + other - math.frexp(step)[1] + 1
    return np.matmul(np.ldexp(left, scale), right)


def _whole(factor: np.ndarray, digits: int) -> tuple[np.ndarray, int]:
    """Whole numbers of at most `digits` binary digits, in fp64, and the power of two that they are multiples of."""
    shift = math.frexp(float(np.abs(factor).max(initial=0)))[1] - digits
    return np.rint(np.ldexp(factor.astype(np.float64), -shift)), shift


def _found_counts(merged: np.ndarray, base: np.ndarray, step: float) -> Counts:
    """S of a merged kernel, as a matrix."""
    found = (merged.astype(np.float64) - base) / step
    return np.rint(found, out=found).reshape(-1, base.shape[-1])


def _added(kernel: np.ndarray, counts: Counts, step: float) -> np.ndarray:
    # 1x1 convolutions are a view, whatever the memory order; 3x3 ones only in C order.
    flat = kernel.ndim == 2 or kernel.shape[:2] == (1, 1)
    merged = np.empty_like(kernel, order="K" if flat else "C")
    base, target = (x[0, 0] if x.ndim == 4 and flat else x.reshape(-1, x.shape[-1]) for x in (kernel, merged))
    change = counts.astype(np.float32)
    change *= np.float32(step)
    target[...] = base.astype(np.float32, copy=False) + change
    return merged
