"""A folder of pictures as training data: pixels, captions, loss masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.io.open_picture import UnreadableError, open_picture, to_mask, to_rgb
from blocklora_jax.io.printing import printable
from train.concept.picture_captions import written_captions
from train.concept.picture_files import MOST_NAMED, PictureFiles, find_pictures


class Picture(NamedTuple):
    """image: RGB, upright. mask: greyscale of the same size, white where the loss counts; None if all of it counts.

    caption: None if none is written for it.
    """

    path: Path
    image: Image.Image
    mask: Image.Image | None = None
    caption: str | None = None


# Width and height in pixels.
Size = tuple[int, int]


class Square(NamedTuple):
    """A square part of a picture, in pixels."""

    left: int
    top: int
    side: int

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.side, self.side

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        return self.left, self.top, self.left + self.side, self.top + self.side


class Box(NamedTuple):
    """A part of a picture of any shape, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def read_pictures(folder: Path) -> list[Picture]:
    """All pictures of `folder` with captions and masks, sorted by name; see `each_picture`.

    All of them are in memory at the same time.

    Raises: UserError as `find_pictures`, `written_captions` and `each_picture` do.
    """
    files = find_pictures(folder)
    captions = [written and written.text for written in written_captions(files)]
    return [p._replace(caption=caption) for p, caption in zip(each_picture(files), captions, strict=True)]


def each_picture(files: Sequence[PictureFiles], skipped: list[UnreadableError] | None = None) -> Iterator[Picture]:
    """One picture after the other, without captions. Only one is in memory: a photo can take 100 MB and more.

    Transparent pixels become white, EXIF orientation is applied, every mode becomes RGB. Masks: see `to_mask`.

    Args:
        files: of one folder.
        skipped: pictures that cannot be read are added to this list, and the others are given. If not given, such a
            picture is an error.

    Raises: UserError naming every file that cannot be read: pictures without `skipped`, and masks. After the first such
        file no more pictures are given. With `skipped`: also if no picture can be read.
    """
    broken: list[str] = []
    for each in files:
        try:
            picture = _read(each)
        except UserError as error:
            if skipped is not None and isinstance(error, UnreadableError) and error.path == each.path:
                skipped.append(error)
            else:
                broken.append(str(error))
        else:
            if not broken:
                yield picture
    if broken:
        folder = printable(str(files[0].path.parent))
        raise UserError(f"{folder}: cannot read {'; '.join(broken)}: repair or remove them")
    if skipped and len(skipped) == len(files):
        raise UserError(f"{printable(str(files[0].path.parent))}: no picture can be read ({name_skipped(skipped)})")


def name_skipped(skipped: Sequence[UnreadableError]) -> str:
    """The names of skipped pictures and the reasons; if there are many, only the first few."""
    words = [f"{printable(each.path.name)}: {each.reason}" for each in skipped[:MOST_NAMED]]
    more = len(skipped) - len(words)
    return "; ".join([*words, *([f"and {more} more"] if more else [])])


def place_square(size: tuple[int, int], share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> Square:
    """A square as wide as `share` of the shorter side of a picture of `size` (width, height).

    at: its place across and down, in 0..1: 0 is left or top, 1 is right or bottom.
    """
    width, height = size
    side = max(1, round(min(width, height) * share))
    return Square(round((width - side) * at[0]), round((height - side) * at[1]), side)


def place_part(size: Size, shape: Size, share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> Square | Box:
    """The largest part of a picture of `size` that has the aspect ratio of `shape`, times `share`; see `place_square`.

    It is a `Square` if the shape is one.
    """
    if shape[0] == shape[1]:
        return place_square(size, share, at)
    scale = share * min(size[0] / shape[0], size[1] / shape[1])
    width, height = (min(max(1, round(side * scale)), whole) for side, whole in zip(shape, size, strict=True))
    return Box(round((size[0] - width) * at[0]), round((size[1] - height) * at[1]), width, height)


def crop(picture: Picture, part: Square | Box, size: int | Size) -> Picture:
    """The part `part` of picture and mask, resized to `size` pixels."""
    mask = picture.mask and picture.mask.resize(both_sides(size), Image.Resampling.BOX, part.edges)
    image = picture.image.resize(both_sides(size), Image.Resampling.LANCZOS, part.edges)
    return picture._replace(image=image, mask=mask)


def both_sides(size: int | Size) -> Size:
    """Width and height; an int is the side of a square."""
    return (size, size) if isinstance(size, int) else size


def crop_square(picture: Picture, size: int, share: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> Picture:
    """The part of a picture that `place_square` names, resized to `size` pixels."""
    return crop(picture, place_square(picture.image.size, share, at), size)


def image_array(picture: Picture) -> Float[np.ndarray, "h w 3"]:
    """Pixels in -1..1, fp32."""
    return np.asarray(picture.image, np.float32) / 127.5 - 1.0


def mask_array(picture: Picture, size: int | Size) -> Float[np.ndarray, "h w 1"]:
    """Loss weights in 0..1 on a grid of latents, fp32; all 1 without a mask. size: of the grid, an int for a square.

    Raises: UserError if the mask is black, or becomes black on this grid.
    """
    weights = mask_weights(picture, size)
    if weights.sum() == 0:
        raise UserError(
            f"the mask of {printable(picture.path.name)} is black all over, or its white is too small to be seen at"
            " this resolution: white is where the concept is"
        )
    return weights


def mask_weights(picture: Picture, size: int | Size) -> Float[np.ndarray, "h w 1"]:
    """As `mask_array`, but a black mask is allowed."""
    width, height = both_sides(size)
    if picture.mask is None:
        return np.ones((height, width, 1), np.float32)
    mask = picture.mask.resize((width, height), Image.Resampling.BOX)
    return np.asarray(mask, np.float32)[..., None] / 255.0


def _read(files: PictureFiles) -> Picture:
    image = open_picture(files.path, to_rgb)
    mask = open_picture(files.mask, to_mask) if files.mask else None
    if mask and mask.size != image.size:
        sizes = f"its mask is {mask.size[0]} x {mask.size[1]}, the picture {image.size[0]} x {image.size[1]}"
        raise UserError(f"{printable(files.path.name)} ({sizes})")
    return Picture(files.path, image, mask)
