"""The grid of changes on devices, in fp32, traced or not; see `composing.grid`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from blocklora_jax.composing.grid_step import DIGITS, LEAST
from blocklora_jax.composing.product import low_rank_product

_EXPONENT = 0x7F800000  # the bits of a float32's exponent
_LOW = 2.0**12

Pairs = Sequence[tuple[Array, Array]]


class Step(NamedTuple):
    """q and 1 / q: powers of two, made of bits because a device may round divisions and powers."""

    size: Float[Array, ""]
    inverse: Float[Array, ""]


@jax.jit
def merge(kernel: Array, pairs: Pairs) -> Array:
    """fl(W + q sum_k n_k), rounded once more to the kernel's type."""
    step = _grid_step(kernel)
    return _added(kernel, _sum_exactly([_counts(a, b, step.inverse) for a, b in pairs]), step)


@jax.jit
def exchange(merged: Array, base: Array, pairs: Pairs) -> Array:
    """`merged` with the changes `pairs` added to those that are in it."""
    step = _grid_step(base)
    found = _found_counts(merged, base, step)
    return _added(base, _sum_exactly([found, *(_counts(a, b, step.inverse) for a, b in pairs)]), step)


@jax.jit
def is_on_grid(merged: Array, base: Array) -> Bool[Array, ""]:
    """Whether one sum of changes, and only one, gives `merged`."""
    step = _grid_step(base)
    found = _found_counts(merged, base, step)
    below, same, above = (_added(base, found + more, step) == merged for more in (-1, 0, 1))
    return (same & ~below & ~above).all()


def _grid_step(kernel: Array) -> Step:
    sizes = jnp.abs(lax.stop_gradient(kernel).astype(jnp.float32))
    largest = jnp.max(jnp.where(jnp.isfinite(sizes), sizes, 0), initial=0)
    # 2^(e - 1), without the digits after the leading one.
    bits = lax.bitcast_convert_type(jnp.where(largest >= LEAST, largest, 0.5), jnp.int32) & _EXPONENT
    size = bits - ((DIGITS - 1) << 23)
    # The exponents of 2^k and 2^-k add up to 254.
    inverse = (254 << 23) - size
    return Step(lax.bitcast_convert_type(size, jnp.float32), lax.bitcast_convert_type(inverse, jnp.float32))


@jax.custom_jvp
def _counts(a: Array, b: Array, inverse: Array) -> Array:
    """n_k = round(a @ b / q), whole numbers in fp32, never -0.0. Its derivative is that of a @ b / q."""
    counts = lax.round(low_rank_product(a, b) * inverse, lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.where(counts == 0, 0, counts)


@_counts.defjvp
def _counts_jvp(primals, tangents):
    (a, b, inverse), (da, db, _) = primals, tangents
    # Without barriers, which have no transpose where only one operand is linear.
    product = partial(jnp.dot, precision=lax.Precision.HIGHEST)
    return _counts(a, b, inverse), (product(da, b) + product(a, db)) * inverse


def _found_counts(merged: Array, base: Array, step: Step) -> Array:
    """S of a merged kernel of less than 2^23 steps. Of more it may be off by one, which `is_on_grid` notices."""
    difference = merged.astype(jnp.float32) - base.astype(jnp.float32)
    counts = lax.round(difference * step.inverse, lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.where(counts == 0, 0, counts).reshape(-1, base.shape[-1])


def _sum_exactly(terms: Sequence[Array]) -> Array:
    """The sum of whole numbers, rounded once: their multiples of 2^12 and what is left are summed apart, exactly."""
    high, low = jnp.zeros_like(terms[0]), jnp.zeros_like(terms[0])
    for term in terms:
        part = lax.round(term * (1 / _LOW), lax.RoundingMethod.TO_NEAREST_EVEN) * _LOW
        high, low = high + part, low + (term - part)
    return high + low


def _added(kernel: Array, counts: Array, step: Step) -> Array:
    change = (counts * step.size).reshape(kernel.shape)
    return (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
