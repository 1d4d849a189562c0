"""The dense layer that all models use: `flax.linen.Dense` with its product over two axes."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float


def flat_dot_general(
    x: Float[Array, "*b n"], kernel: Float[Array, "n m"], dimension_numbers: Any, **options: Any
) -> Float[Array, "*b m"]:
    """`x @ kernel` with the leading axes of `x` folded into one.

    On CPUs XLA takes up to three times as long for the kernel's gradient when it contracts several axes.
    """
    y = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = partial(nn.Dense, dot_general=flat_dot_general)
