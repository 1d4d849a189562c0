"""Softness: generated pictures are softer than drawings, and the judge is to see through it."""

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

_CODED = 64


def soften(config: VAEConfig, params: dict, pictures: np.ndarray, path: Path) -> np.ndarray:
    """The pictures, uint8, as the autoencoder gives them back; kept in `path`."""
    if path.exists():
        return np.load(path, mmap_mode="r")
    model = AutoencoderKL(config)

    @jax.jit
    def code(images: Array) -> Array:
        mean, _ = apply_model(model, params, images, method="encode")
        return jnp.clip(jnp.round((apply_model(model, params, mean, method="decode") + 1) * 127.5), 0, 255)

    out = np.empty(pictures.shape, np.uint8)
    for start in tqdm(range(0, len(pictures), _CODED), desc="soften", unit="batch", dynamic_ncols=True):
        chunk = pictures[start : start + _CODED]
        padded = np.pad(to_float(chunk), ((0, _CODED - len(chunk)), (0, 0), (0, 0), (0, 0)))
        out[start : start + _CODED] = np.asarray(code(padded))[: len(chunk)]
    write_array(path, out)
    return out


def augment(images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
    """Pictures in -1..1, some blurred (up to one pixel), with a little noise and light; colours stay what they are."""
    keys = jax.random.split(key, 5)
    some = lambda key: jax.random.uniform(key, (len(images), 1, 1, 1))
    amount = some(keys[0]) * (some(keys[1]) < 0.5)
    images = images + amount * (_blur(_blur(images)) - images)
    gain, light = 1 + 0.08 * (some(keys[2]) - 0.5), 0.08 * (some(keys[3]) - 0.5)
    level = 0.08 * some(jax.random.fold_in(keys[4], 1))
    return images * gain + light + level * jax.random.normal(keys[4], images.shape)


def _blur(x: Array) -> Array:
    """Each pixel a half, its neighbours a quarter, along both axes; the border repeats itself."""
    for axis in (1, 2):
        edge = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        padded, size = jnp.pad(x, edge, mode="edge"), x.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, s, s + size, axis=axis) for s in (0, 2))
        x = 0.5 * x + 0.25 * (before + after)
    return x
