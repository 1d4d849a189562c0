"""Learning rates as functions of the time: of the part of a stage's time that has passed, from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

# (progress, finished steps) -> factor of the learning rate.
Decay = Callable[[Array, Array], Array]
WARMUP_STEPS = 200
# The factor at the end of the time.
LEAST = 0.01


def cosine(progress: Array, step: Array) -> Array:
    """Warm-up, then a cosine that ends at `LEAST` when the time is over."""
    return _warmup(step) * (LEAST + (1 - LEAST) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))


def hold_then_linear(progress: Array, step: Array) -> Array:
    """Warm-up, constant for half of the time, then a line that ends at `LEAST` when the time is over."""
    return _warmup(step) * (1 - (1 - LEAST) * jnp.clip(2 * progress - 1, 0, 1))


def _warmup(step: Array) -> Array:
    return jnp.minimum(1.0, (step + 1) / WARMUP_STEPS)
