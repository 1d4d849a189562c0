"""The precision of sums, norms and softmax."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array


def at_least_float32(x: Array) -> Array:
    """`x` in fp32 if its type is smaller, e.g. bf16; else unchanged.

    fp64 is kept, so that a test can compute in it and tell a wrong formula from rounding.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
