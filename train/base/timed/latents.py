"""Encodes the pictures on the device, where their latents stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.vae import AutoencoderKL
from train.base.timed.stages import as_float

# Pictures that are encoded at a time. The room for pictures is a multiple of it.
CHUNK = 500


def encoder(config: VAEConfig) -> Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]:
    """`encode(params, images, count)`: the latents fp16 [n, h, w, c] of bytes, not scaled, and their deviation.

    The latents are the means that the encoder gives. The deviation is that of the first `count` pictures.
    """
    model = AutoencoderKL(config)

    @jax.jit
    def encode(params: Any, images: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = lambda chunk: model.apply({"params": params}, as_float(chunk), method="encode")[0].astype(jnp.float16)
        latents = jax.lax.map(one, images.reshape(-1, CHUNK, *images.shape[1:]))
        latents = latents.reshape(-1, *latents.shape[2:])
        sums, squares = jax.vmap(_sums)(latents)
        here = jnp.arange(len(latents)) < count
        number = count * latents[0].size
        mean, square = ((jnp.where(here, values, 0) / number).sum() for values in (sums, squares))
        return latents, jnp.sqrt(square - mean**2)

    return encode


def _sums(latents: jax.Array) -> tuple[jax.Array, jax.Array]:
    values = latents.astype(jnp.float32)
    return values.sum(), jnp.square(values).sum()
