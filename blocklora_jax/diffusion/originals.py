"""Pictures that others are made from: whole (image to image), or only parts of them (inpainting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from blocklora_jax.errors import UserError
from blocklora_jax.models.apply import apply_model


class Original(NamedTuple):
    """Pictures, uint8 RGB. mask: 255 where a picture is drawn anew, 0 where it is kept; None: nothing is kept."""

    pictures: UInt8[Array | np.ndarray, "b h w 3"]
    mask: UInt8[Array | np.ndarray, "b h w"] | None = None


class OriginalLatents(NamedTuple):
    """Latents of pictures in the U-Net's scale. mask: 1 where they are drawn anew, 0 where they are kept."""

    latents: Float[Array, "b i j d"]
    mask: Float[Array, "b i j 1"] | None


def encode_original(vae: nn.Module, params: Mapping[str, Any], original: Original) -> OriginalLatents:
    """The latents of the pictures, and the masks in their size.

    Latents are the encoder's means. A mask is read at the upper left pixel of each latent, as in diffusers.
    """
    pictures = jnp.asarray(original.pictures).astype(jnp.float32) / 127.5 - 1
    mean, _ = apply_model(vae, params, pictures, method="encode")
    if original.mask is None:
        return OriginalLatents(mean * vae.config.scaling_factor, None)
    factor = vae.config.downscale
    mask = jnp.asarray(original.mask)[:, ::factor, ::factor, None] >= 128
    return OriginalLatents(mean * vae.config.scaling_factor, mask.astype(jnp.float32))


def check_original(vae: nn.Module, image: Any, mask: Any, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`image` [count, h, w, 3] and `mask` [count, h, w] as uint8, repeated for all pictures if there is one of each.

    Raises: UserError for another shape or type, sides that the model cannot make, or a mask without an image.
    """
    if image is None:
        if mask is not None:
            raise UserError("a mask says which part of an image is drawn anew: give the image too")
        return None, None
    pictures = _repeated("image", image, 3, (3,), count)
    factor = vae.config.downscale
    height, width = pictures.shape[1:3]
    if height % factor or width % factor or 0 in (height, width):
        raise UserError(f"image of height {height} and width {width}: both must be multiples of {factor}; resize it")
    masks = None if mask is None else _repeated("mask", mask, 2, (), count)
    if masks is not None and masks.shape != pictures.shape[:3]:
        raise UserError(f"mask {list(masks.shape[1:])} must be as large as the image {list(pictures.shape[1:3])}")
    return pictures, masks


def check_same_size(vae: nn.Module, pictures: np.ndarray, latents: Any) -> None:
    """Raises UserError if `latents` are not those of pictures of this size."""
    if [side * vae.config.downscale for side in latents.shape[1:3]] != list(pictures.shape[1:3]):
        height, width = pictures.shape[1:3]
        raise UserError(f"latents {list(latents.shape)} do not have the size of the image, {height} x {width} pixels")


def _repeated(name: str, value: Any, dims: int, end: tuple[int, ...], count: int) -> np.ndarray:
    array = np.asarray(value)
    batched = array if array.ndim == dims + 1 else np.broadcast_to(array, (count, *array.shape))
    if array.dtype != np.uint8 or batched.ndim != dims + 1 or len(batched) != count or batched.shape[3:] != end:
        wanted = "[h, w, 3]" if end else "[h, w]"
        given = f"{name} {list(array.shape)} of type {array.dtype}"
        raise UserError(f"{given} must be uint8 {wanted}, or one for each of {count} prompts")
    return batched
