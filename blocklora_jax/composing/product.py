"""The product of a low-rank pair, rounded alike wherever it is used."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def low_rank_product(a: Float[Array, "h r"], b: Float[Array, "r w"]) -> Float[Array, "h w"]:
    """a @ b in fp32, rounded alike whatever surrounds it: XLA must fuse neither a factor nor the sum into it."""
    if a.shape[1] == 1:
        # A product of rank 1 becomes a multiplication, which no barrier keeps from a fused multiply-add.
        a, b = jnp.pad(a, ((0, 0), (0, 1))), jnp.pad(b, ((0, 1), (0, 0)))
    a, b = lax.optimization_barrier((a, b))
    return lax.optimization_barrier(jnp.dot(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32))
