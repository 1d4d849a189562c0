"""Aspect buckets: the shapes of training pictures, and which shape a step trains on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from train.concept.images import Size

# Sides are multiples of this many latents, if pictures are large: 64 pixels for Stable Diffusion.
_STEP = 8


def bucket_sizes(size: int, downscale: int, halvings: int) -> list[Size]:
    """The widths and heights of pictures with about as many pixels as a square of `size` x `size`, and never more.

    Sides are between `size` / 2 and 2 `size`. downscale: pixels of a latent. halvings: how often the U-Net halves the
    latents; every side can be halved as often.
    """
    least = 2**halvings
    step = downscale * least * max(1, min(_STEP, size // downscale // 8) // least)
    widths = range(max(step, math.ceil(size / 2 / step) * step), 2 * size + 1, step)
    sizes = [(width, size**2 // width // step * step) for width in widths]
    return [(width, height) for width, height in sizes if height >= size // 2] or [(size, size)]


def nearest_bucket(picture: Size, sizes: Sequence[Size]) -> Size:
    """The one of `sizes` whose aspect ratio is nearest to that of a picture."""
    ratio = math.log(picture[0] / picture[1])
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - ratio))


class Buckets(NamedTuple):
    """Which arrays have which shape. members: the numbers of the arrays of each shape."""

    members: dict[tuple[int, ...], Int[np.ndarray, " m"]]

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray]) -> Buckets:
        """The buckets of `arrays`, in the order in which their shapes occur."""
        numbers: dict[tuple[int, ...], list[int]] = {}
        for number, array in enumerate(arrays):
            numbers.setdefault(array.shape, []).append(number)
        return cls({shape: np.array(each) for shape, each in numbers.items()})

    def at(self, step: int, seed: int) -> tuple[tuple[int, ...], int]:
        """The shape that a step trains on, and how many steps before it did so.

        In as many steps as there are arrays, each bucket has as many as it has members, in an order drawn from `seed`.
        """
        shapes = list(self.members)
        if len(shapes) == 1:
            return shapes[0], step
        counts = [len(members) for members in self.members.values()]
        round_, place = divmod(step, sum(counts))
        order = np.random.default_rng((seed, 4, round_)).permutation(np.repeat(np.arange(len(counts)), counts))
        bucket = int(order[place])
        return shapes[bucket], round_ * counts[bucket] + int((order[:place] == bucket).sum())


def stack_equal(arrays: Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """`arrays` as one array if all have one shape."""
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else list(arrays)


def take_rows(arrays: np.ndarray | Sequence[np.ndarray], numbers: Int[np.ndarray, " n"]) -> np.ndarray:
    """The arrays with these numbers, which have one shape, as one array."""
    return arrays[numbers] if isinstance(arrays, np.ndarray) else np.stack([arrays[i] for i in numbers.tolist()])
