"""Weights of the rows of a batch, so that rows that only fill up devices count for nothing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Batches come from the host as NumPy arrays.
Rows = Array | np.ndarray
RowWeights = Float[Rows, " rows"] | None


def weigh_rows(values: Float[Array, "..."], weights: RowWeights, axis: int = 0) -> Float[Array, "..."]:
    """`values` times the weight of each row; the same array if `weights` is None.

    weights: their mean over all devices is 1. So the mean of the result over all rows of all devices is the mean over
    the rows that count. axis: that of the rows.
    """
    if weights is None:
        return values
    return values * jnp.asarray(weights).reshape([-1 if i == axis else 1 for i in range(values.ndim)])


def padding_weights(rows: int, padded: int) -> Float[np.ndarray, " padded"]:
    """fp32 weights of `padded` rows, of which the first `rows` count, all alike, and the others do not."""
    return np.where(np.arange(padded) < rows, padded / max(rows, 1), 0).astype(np.float32)
