"""Gradient accumulation: a large batch, taken in parts one after the other, so that memory holds one part at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_parts(function: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """The mean of `function(part)`, a tree of arrays, over `count` equal parts of the rows of `batch`.

    If `function` is a mean over rows, or the gradient of one, the result is that of the whole batch up to rounding.
    The number of rows in every leaf of `batch` must be a multiple of `count`.
    """
    parts = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)

    def add(sums: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(part)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    sums, _ = jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)
    return jax.tree.map(lambda x: x / count, sums)
