"""The part of a picture around the white of its mask."""

from __future__ import annotations

from PIL import Image

from train.concept.images import Box, Picture

# On each side, as a share of the longer side of the mask's white.
_MARGIN = 0.1


def mask_region(mask: Image.Image, size: int, square: bool) -> Box:
    """The white of `mask` with a margin.

    It has at least half of `size` pixels on each side, if the picture has them, so that nothing is enlarged more than
    twofold. A black mask gives the whole picture.

    Args:
        mask: of a picture.
        size: side of a training picture in pixels.
        square: whether the region is made square, as far as the picture reaches.
    """
    white = mask.getbbox() or (0, 0, *mask.size)
    sides = white[2] - white[0], white[3] - white[1]
    margin = _MARGIN * max(sides)
    wanted = [max(side + 2 * margin, size / 2) for side in sides]
    if square:
        wanted = [max(wanted)] * 2
    width, height = (min(round(side), whole) for side, whole in zip(wanted, mask.size, strict=True))
    left = _place(white[0], white[2], width, mask.size[0])
    top = _place(white[1], white[3], height, mask.size[1])
    return Box(left, top, width, height)


def cut(picture: Picture, region: Box) -> Picture:
    """The part `region` of picture and mask."""
    mask = picture.mask and picture.mask.crop(region.edges)
    return picture._replace(image=picture.image.crop(region.edges), mask=mask)


def _place(first: int, last: int, length: int, whole: int) -> int:
    """The start of a stretch of `length` within 0 to `whole` with `first` to `last` in its middle, if possible."""
    return min(max(0, round((first + last - length) / 2)), whole - length)
