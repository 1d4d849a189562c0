"""Encodes pictures to latents as they are read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from blocklora_jax.pipeline import StableDiffusion
from train.concept.images import Picture, image_array

# Number of pictures from which on a progress bar is shown.
_MANY = 50
_MOST_ROWS, _MOST_PIXELS = 16, 4 * 512 * 512


class PictureEncoder:
    """Encodes a few pictures at a time, with one compiled program, and keeps only their latents.

    Use it in a `with` block, which ends the progress bar.

    Args:
        sd: has the autoencoder.
        count: number of pictures, for the progress bar.
        rows: how many are encoded at once; see `rows_at_once` for the default.
    """

    def __init__(self, sd: StableDiffusion, count: int, rows: int | None = None):
        # On the device until all pictures are encoded: the encoder is dropped then.
        self._vae, self._params, self._rows = sd.models.vae, jax.device_put(sd.params["vae"]), rows
        self._waiting: list[Float[np.ndarray, "h w 3"]] = []
        self._latents: list[Float[np.ndarray, "n h w c"]] = []
        shown = None if count >= _MANY else True
        self._bar = tqdm(total=count, desc="encode", unit="picture", dynamic_ncols=True, disable=shown)

    def __enter__(self) -> PictureEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, picture: Picture) -> None:
        """Encode one more picture; all must have the same size."""
        self._waiting.append(image_array(picture))
        if self._rows is None:
            self._rows = rows_at_once(len(self._waiting[0]), jax.default_backend())
        if len(self._waiting) == self._rows:
            self._encode()

    def latents(self) -> Float[np.ndarray, "n h w c"]:
        """The latents of all pictures (the means), scaled as the U-Net expects, fp32."""
        if self._waiting:
            self._encode()
        return np.concatenate(self._latents) * np.float32(self._vae.config.scaling_factor)

    def _encode(self) -> None:
        count, rows = len(self._waiting), self._rows or 1
        # One shape for every batch, so that one program is compiled.
        padded = np.stack([*self._waiting, *[self._waiting[-1]] * (rows - count)])
        self._latents.append(np.asarray(_encode(self._vae, self._params, padded), np.float32)[:count])
        self._waiting.clear()
        self._bar.update(count)


def encode_images(sd: StableDiffusion, pictures: Iterable[Picture], count: int = 0) -> Float[np.ndarray, "n h w c"]:
    """Latents of `pictures`, which all have one size. count: their number, for the bar. See `PictureEncoder`."""
    with PictureEncoder(sd, count) as encoder:
        for picture in pictures:
            encoder.add(picture)
        return encoder.latents()


def rows_at_once(size: int, platform: str) -> int:
    """How many pictures of `size` x `size` pixels are encoded at once.

    One on a CPU, where batches are not faster and need more memory. Times a picture with the pocket model: at 64 pixels
    3.1 ms alone and 2.9 ms in batches of 16, at 256 pixels 154 ms and 201 ms.
    """
    return 1 if platform == "cpu" else max(1, min(_MOST_ROWS, _MOST_PIXELS // size**2))


# A function of the module, so that it is compiled once for all concepts that train on one model.
@partial(jax.jit, static_argnums=0)
def _encode(vae: Any, params: Any, pictures: Float[Array, "n h w 3"]) -> Float[Array, "n h2 w2 c"]:
    return vae.apply({"params": params}, pictures, method="encode")[0]
