"""Encodes pictures to latents as they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm.auto import tqdm

from blocklora_jax.pipeline import StableDiffusion
from train.concept.buckets import stack_equal
from train.concept.images import Picture, image_array

# Number of pictures from which on a progress bar is shown.
_MANY = 50
_MOST_ROWS, _MOST_PIXELS = 16, 4 * 512 * 512


class PictureEncoder:
    """Encodes a few pictures at a time, with one compiled program for each shape, and keeps only their latents.

    Use it in a `with` block, which ends the progress bar.

    Args:
        sd: has the autoencoder.
        count: number of pictures, for the progress bar.
        rows: how many are encoded at once; see `rows_at_once` for the default.
    """

    def __init__(self, sd: StableDiffusion, count: int, rows: int | None = None):
        # On the device until all pictures are encoded: the encoder is dropped then.
        self._vae, self._params, self._rows = sd.models.vae, jax.device_put(sd.params["vae"]), rows
        # Pictures that wait, with their numbers, by shape; latents by number.
        self._waiting: dict[tuple[int, ...], list[tuple[int, Float[np.ndarray, "h w 3"]]]] = {}
        self._latents: dict[int, Float[np.ndarray, "h w c"]] = {}
        self._count = 0
        shown = None if count >= _MANY else True
        self._bar = tqdm(total=count, desc="encode", unit="picture", dynamic_ncols=True, disable=shown)

    def __enter__(self) -> PictureEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, picture: Picture) -> None:
        """Encode one more picture. Those of one shape are encoded together."""
        pixels = image_array(picture)
        waiting = self._waiting.setdefault(pixels.shape, [])
        waiting.append((self._count, pixels))
        self._count += 1
        if self._rows is None:
            self._rows = rows_at_once(math.isqrt(pixels.shape[0] * pixels.shape[1]), jax.default_backend())
        if len(waiting) == self._rows:
            self._encode(waiting)

    def latents(self) -> Float[np.ndarray, "n h w c"]:
        """The latents of all pictures (the means), scaled as the U-Net expects, fp32. All must have one shape."""
        return np.stack(self.each_latents())

    def each_latents(self) -> list[Float[np.ndarray, "h w c"]]:
        """The latents of each picture; see `latents`."""
        for waiting in self._waiting.values():
            if waiting:
                self._encode(waiting)
        factor = np.float32(self._vae.config.scaling_factor)
        return [self._latents[number] * factor for number in range(self._count)]

    def _encode(self, waiting: list[tuple[int, Float[np.ndarray, "h w 3"]]]) -> None:
        numbers, pixels = zip(*waiting, strict=True)
        # One shape for every batch, so that one program is compiled.
        padded = np.stack([*pixels, *[pixels[-1]] * ((self._rows or 1) - len(pixels))])
        latents = np.asarray(_encode(self._vae, self._params, padded), np.float32)
        self._latents |= dict(zip(numbers, latents, strict=False))
        waiting.clear()
        self._bar.update(len(numbers))


def encode_images(
    sd: StableDiffusion, pictures: Iterable[Picture], count: int = 0
) -> Float[np.ndarray, "n h w c"] | list[np.ndarray]:
    """Latents of `pictures`; a list if shapes differ. count: their number, for the bar. See `PictureEncoder`."""
    with PictureEncoder(sd, count) as encoder:
        for picture in pictures:
            encoder.add(picture)
        return stack_equal(encoder.each_latents())


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
