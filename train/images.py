"""A folder of pictures as training data: pixels, captions, loss masks."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from blocklora_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MASK = ".mask.png"
# Pillow raises SyntaxError for broken PNG chunks and EXIF blocks, struct.error for shortened ones.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class Picture(NamedTuple):
    """image: RGB, upright. mask: greyscale of the same size, white where the loss counts. caption: None without a .txt."""

    path: Path
    image: Image.Image
    mask: Image.Image
    caption: str | None


def read_pictures(folder: Path) -> list[Picture]:
    """Every PNG, JPEG and WebP of `folder`, by name; others' files are left alone.

    Transparent pixels become white, EXIF orientation is applied, every mode becomes RGB.

    Raises: UserError for a folder that is missing or has no pictures, and one naming every file that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder of pictures {folder}")
    names = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.lower().endswith(_MASK))
    if not names:
        raise UserError(f"{folder} has no pictures ({', '.join(SUFFIXES)})")
    pictures, broken = [], []
    for path in names:
        try:
            pictures.append(_read(path))
        except _BROKEN as error:
            broken.append(f"{path.name} ({' '.join(str(error).split())})")
    if broken:
        raise UserError(f"{folder}: cannot read {'; '.join(broken)}: repair or remove them")
    return pictures


def crop_square(picture: Picture, size: int, share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> Picture:
    """A square of `share` of the shorter side, placed by `at` in 0..1 across the free room, resized to `size` pixels."""
    width, height = picture.image.size
    side = max(1, round(min(width, height) * share))
    left, top = round((width - side) * at[0]), round((height - side) * at[1])
    box = (left, top, left + side, top + side)
    image = picture.image.resize((size, size), Image.Resampling.LANCZOS, box)
    return picture._replace(image=image, mask=picture.mask.resize((size, size), Image.Resampling.BOX, box))


def image_array(picture: Picture) -> Float[np.ndarray, "h w 3"]:
    """Pixels in -1..1, fp32."""
    return np.asarray(picture.image, np.float32) / 127.5 - 1.0


def mask_array(picture: Picture, size: int) -> Float[np.ndarray, "s s 1"]:
    """Loss weights in 0..1 on the grid of `size` latents, fp32. Raises UserError if the mask is black."""
    mask = picture.mask.resize((size, size), Image.Resampling.BOX)
    weights = np.asarray(mask, np.float32)[..., None] / 255.0
    if weights.sum() == 0:
        raise UserError(f"the mask of {picture.path.name} is black all over: white is where the concept is")
    return weights


def _read(path: Path) -> Picture:
    with Image.open(path) as file:
        image = _to_rgb(ImageOps.exif_transpose(file))
    mask_path, text_path = path.with_name(path.stem + _MASK), path.with_suffix(".txt")
    mask = Image.new("L", image.size, 255)
    if mask_path.exists():
        with Image.open(mask_path) as file:
            mask = ImageOps.exif_transpose(file).convert("L")
        if mask.size != image.size:
            raise ValueError(
                f"its mask is {mask.size[0]} x {mask.size[1]}, the picture {image.size[0]} x {image.size[1]}"
            )
    caption = " ".join(text_path.read_text(encoding="utf-8").split()) if text_path.exists() else None
    return Picture(path, image, mask, caption)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, np.float32) / 257.0).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
