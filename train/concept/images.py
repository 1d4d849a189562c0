"""A folder of pictures as training data: pixels, captions, loss masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageChops, ImageOps

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from train.concept.captions import read_captions
from train.concept.picture_files import PictureFiles, find_pictures


class Picture(NamedTuple):
    """image: RGB, upright. mask: greyscale of the same size, white where the loss counts; None where all counts.

    caption: None without a .txt.
    """

    path: Path
    image: Image.Image
    mask: Image.Image | None = None
    caption: str | None = None


class Square(NamedTuple):
    """A part of a picture, in its pixels."""

    left: int
    top: int
    side: int


def read_pictures(folder: Path) -> list[Picture]:
    """Every PNG, JPEG and WebP of `folder` with captions and masks, by name, all in memory; see `each_picture`.

    Raises: UserError as `find_pictures`, `read_captions` and `each_picture` do.
    """
    files = find_pictures(folder)
    named = [each.caption for each in files if each.caption]
    captions: dict[Path | None, str] = dict(zip(named, read_captions(named), strict=True))
    return [p._replace(caption=captions.get(f.caption)) for p, f in zip(each_picture(files), files, strict=True)]


def each_picture(files: Sequence[PictureFiles]) -> Iterator[Picture]:
    """One picture after the other, without its caption: a photo takes a hundred megabytes and more.

    Transparent pixels become white, EXIF orientation is applied, every mode becomes RGB. Masks: see `_to_mask`.

    Raises: UserError naming every file that cannot be read; after the first of them no more pictures come.
    """
    broken: list[str] = []
    for each in files:
        try:
            picture = _read(each)
        except UserError as error:
            broken.append(str(error))
        else:
            if not broken:
                yield picture
    if broken:
        folder = printable(str(files[0].path.parent))
        raise UserError(f"{folder}: cannot read {'; '.join(broken)}: repair or remove them")


def place_square(size: tuple[int, int], share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> Square:
    """`share` of the shorter side of a picture of `size` (width, height), placed by `at` in 0..1 across the rest."""
    width, height = size
    side = max(1, round(min(width, height) * share))
    return Square(round((width - side) * at[0]), round((height - side) * at[1]), side)


def crop(picture: Picture, square: Square, size: int) -> Picture:
    """The part `square` of picture and mask, resized to `size` pixels."""
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    mask = picture.mask and picture.mask.resize((size, size), Image.Resampling.BOX, box)
    return picture._replace(image=picture.image.resize((size, size), Image.Resampling.LANCZOS, box), mask=mask)


def crop_square(picture: Picture, size: int, share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> Picture:
    """The part of a picture that `place_square` names, resized to `size` pixels."""
    return crop(picture, place_square(picture.image.size, share, at), size)


def image_array(picture: Picture) -> Float[np.ndarray, "h w 3"]:
    """Pixels in -1..1, fp32."""
    return np.asarray(picture.image, np.float32) / 127.5 - 1.0


def mask_array(picture: Picture, size: int) -> Float[np.ndarray, "s s 1"]:
    """Loss weights in 0..1 on the grid of `size` latents, fp32; ones without a mask.

    Raises: UserError if the mask is black, or as good as black on this grid.
    """
    weights = mask_weights(picture, size)
    if weights.sum() == 0:
        raise UserError(
            f"the mask of {printable(picture.path.name)} is black all over, or its white is too small to be seen at"
            " this resolution: white is where the concept is"
        )
    return weights


def mask_weights(picture: Picture, size: int) -> Float[np.ndarray, "s s 1"]:
    """As `mask_array`, but a black mask is allowed."""
    if picture.mask is None:
        return np.ones((size, size, 1), np.float32)
    mask = picture.mask.resize((size, size), Image.Resampling.BOX)
    return np.asarray(mask, np.float32)[..., None] / 255.0


def _read(files: PictureFiles) -> Picture:
    image = _open(files.path, _to_rgb)
    mask = _open(files.mask, _to_mask) if files.mask else None
    if mask and mask.size != image.size:
        sizes = f"its mask is {mask.size[0]} x {mask.size[1]}, the picture {image.size[0]} x {image.size[1]}"
        raise UserError(f"{printable(files.path.name)} ({sizes})")
    return Picture(files.path, image, mask)


def _open(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The upright image of a file, converted. Raises: UserError naming the file and what is wrong with it."""
    Image.init()
    try:
        if not path.is_file():
            raise OSError("not a file")
        # EPS files are programs, which Pillow runs with Ghostscript whatever their suffix.
        with Image.open(path, formats=[kind for kind in Image.ID if kind != "EPS"]) as file:
            ImageOps.exif_transpose(file, in_place=True)
            file.load()
            return convert(file)
    # Decoders raise many errors for damaged files: OSError, SyntaxError, struct.error, DecompressionBombError, …
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{printable(path.name)} ({printable(reason)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_mask(image: Image.Image) -> Image.Image:
    """Greyscale, white where the loss counts. Transparent parts become black."""
    image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return ImageChops.multiply(image.convert("L"), image.getchannel("A"))
    return image.convert("L")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16 bits of grey ("I;16", in older Pillows "I") as 8; Pillow's own conversion cuts off at 255."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values.astype(np.float32) / 257.0).clip(0, 255).astype(np.uint8))
    if (unseen := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == unseen, 0, 255).astype(np.uint8)))
    return grey
