"""Softer training pictures for the judge: it also measures generated pictures, which are softer than drawings."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.vae import AutoencoderKL
from train.base.pictures import to_float, write_array

_BATCH = 64


def soften(config: VAEConfig, params: dict, pictures: np.ndarray, path: Path) -> np.ndarray:
    """The pictures, uint8, as the autoencoder reconstructs them. They are kept in `path`."""
    if path.exists():
        return np.load(path, mmap_mode="r")
    model = AutoencoderKL(config)

    @jax.jit
    def reconstruct(images: Array) -> Array:
        mean, _ = apply_model(model, params, images, method="encode")
        return jnp.clip(jnp.round((apply_model(model, params, mean, method="decode") + 1) * 127.5), 0, 255)

    out = np.empty(pictures.shape, np.uint8)
    for start in tqdm(range(0, len(pictures), _BATCH), desc="soften", unit="batch", dynamic_ncols=True):
        chunk = pictures[start : start + _BATCH]
        padded = np.pad(to_float(chunk), ((0, _BATCH - len(chunk)), (0, 0), (0, 0), (0, 0)))
        out[start : start + _BATCH] = np.asarray(reconstruct(padded))[: len(chunk)]
    write_array(path, out)
    return out


def augment(images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
    """Pictures in -1..1 with changes of brightness, contrast and noise, half of them also blurred by up to a pixel.

    Apart from the noise, brightness and contrast change alike in all colour channels.
    """
    keys = jax.random.split(key, 5)
    uniform = lambda key: jax.random.uniform(key, (len(images), 1, 1, 1))
    amount = uniform(keys[0]) * (uniform(keys[1]) < 0.5)
    images = images + amount * (_blur(_blur(images)) - images)
    gain, light = 1 + 0.08 * (uniform(keys[2]) - 0.5), 0.08 * (uniform(keys[3]) - 0.5)
    level = 0.08 * uniform(jax.random.fold_in(keys[4], 1))
    return images * gain + light + level * jax.random.normal(keys[4], images.shape)


def _blur(x: Array) -> Array:
    """Along both axes, half of a pixel plus a quarter of each neighbour. The border pixels are repeated outwards."""
    for axis in (1, 2):
        edge = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        padded, size = jnp.pad(x, edge, mode="edge"), x.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, s, s + size, axis=axis) for s in (0, 2))
        x = 0.5 * x + 0.25 * (before + after)
    return x
