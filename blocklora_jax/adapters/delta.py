"""The change that a low-rank pair makes to a layer's kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blocklora_jax.layouts.low_rank import LoRAPair


def kernel_change(pair: LoRAPair, scale: float) -> Float[Array, "n m"]:
    """`scale * lora_A @ lora_B` in full fp32, to be added to a Flax kernel [n, m].

    Args:
        pair: lora_A [n, r] and lora_B [r, m].
        scale: `AdapterInfo.scale`.

    Two places do not use it: `composing.compose` computes only the owned entries, and the forward pass multiplies the
    inputs by lora_A first.
    """
    return scale * jnp.dot(pair.lora_A, pair.lora_B, precision=jax.lax.Precision.HIGHEST)
