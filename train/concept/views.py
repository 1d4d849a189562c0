"""Views of a picture: crops and mirror images. Every view covers a part of the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageOps

from train.concept.images import Box, Picture, Size, Square, both_sides, crop, mask_weights, place_part

Part = TypeVar("Part", bound=Square | Box)
_VIEWS_OF_CROPS = 8  # Number of random crops of each picture. They are encoded before training.


def count_views(smallest: float, flip: bool) -> int:
    """The number of views that `crop_views` gives for the places of `place_views`."""
    return (_VIEWS_OF_CROPS if smallest < 1 else 1) * (2 if flip else 1)


def place_views(
    picture: Picture, rng: np.random.Generator, size: int | Size, grid: int | Size, smallest: float
) -> list[Square | Box]:
    """The parts of `picture` that are trained. They have the shape of `size`.

    The part in the centre moves as far as it must to cover the mask. A random crop moves only if it misses the mask.

    Args:
        picture: with its mask.
        rng: draws the crops; the mask does not change the draws.
        size: of a view in pixels; an int is the side of a square.
        grid: of a view in latents.
        smallest: smallest size of random crops, as a share of the largest part of this shape; 1: only that part.
    """
    places = [(1.0, (0.5, 0.5))]
    if smallest < 1:
        places = [(rng.uniform(smallest, 1), tuple(rng.random(2))) for _ in range(_VIEWS_OF_CROPS)]
    shape = both_sides(size)
    return [_onto_mask(picture, place_part(picture.image.size, shape, *place), size, grid) for place in places]


def crop_views(picture: Picture, places: Sequence[Square | Box], size: int | Size, flip: bool) -> Iterator[Picture]:
    """The parts `places` of `picture`, resized to `size`. flip: then all of them again, mirrored."""
    views = [crop(picture, place, size) for place in places]
    yield from views
    if flip:
        for view in views:
            mask = view.mask and ImageOps.mirror(view.mask)
            yield view._replace(image=ImageOps.mirror(view.image), mask=mask)


def move_to_mask(part: Part, mask: Image.Image) -> Part:
    """`part`, moved up or down, then sideways, to cover most of `mask`; of equally good places the nearest."""
    white, (width, height) = np.asarray(mask), part.size
    top = _best_start(white.sum(1, dtype=np.int64), height, part.top)
    left = _best_start(white[top : top + height].sum(0, dtype=np.int64), width, part.left)
    return part._replace(left=left, top=top)


def _onto_mask(picture: Picture, part: Square | Box, size: int | Size, grid: int | Size) -> Square | Box:
    """`part`, moved to the mask if it is the largest one of its shape, or if the mask would be black in it."""
    if picture.mask is None:
        return part
    is_whole = any(side == whole for side, whole in zip(part.size, picture.image.size, strict=True))
    if is_whole or not mask_weights(crop(picture, part, size), grid).any():
        return move_to_mask(part, picture.mask)
    return part


def _best_start(profile: Int[np.ndarray, " n"], length: int, wanted: int) -> int:
    """The start of the stretch of `length` with the largest sum; of several such starts the one nearest to `wanted`."""
    sums = np.concatenate([[0], np.cumsum(profile)])
    covered = sums[length:] - sums[:-length]
    best = np.flatnonzero(covered == covered.max())
    return int(best[np.abs(best - wanted).argmin()])
