"""The views of a concept's pictures as latents and loss weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.errors import UserError
from blocklora_jax.io.open_picture import UnreadableError
from blocklora_jax.io.printing import printable
from blocklora_jax.pipeline import StableDiffusion
from train.concept.buckets import bucket_sizes, nearest_bucket, stack_equal
from train.concept.contact_sheet import ContactSheet
from train.concept.encode import PictureEncoder
from train.concept.images import Box, Picture, Size, Square, each_picture, mask_array
from train.concept.mask_region import cut, mask_region
from train.concept.picture_files import PictureFiles
from train.concept.settings.data import DataSettings
from train.concept.views import count_views, crop_views, place_views


class EncodedPictures(NamedTuple):
    """All views of the pictures that could be read, picture by picture.

    latents: fp32 [n, h, w, c], scaled; a list if shapes differ. weights: of the loss, fp32 [n, h, w, 1], or a list.
    kept: the numbers of the pictures among the files. skipped: the files that could not be read. contact_sheet: the
    content of its PNG file. shapes: how many pictures have which width and height, in pixels.
    """

    latents: Float[np.ndarray, "n h w c"] | list[np.ndarray]
    weights: Float[np.ndarray, "n h w 1"] | list[np.ndarray]
    kept: list[int]
    skipped: list[UnreadableError]
    contact_sheet: bytes
    shapes: Counter[Size]


def encode_pictures(
    sd: StableDiffusion,
    files: Sequence[PictureFiles],
    captions: Sequence[str],
    size: int,
    settings: DataSettings,
    seed: int,
) -> EncodedPictures:
    """Read, crop and encode `files`. One picture is in memory at a time. captions: of the files, for the contact sheet.

    Raises: UserError as `each_picture` and `mask_array` do, and for `crop_to_mask` without masks.
    """
    if settings.crop_to_mask and not any(each.mask for each in files):
        folder = printable(str(files[0].path.parent))
        raise UserError(f"--crop-to-mask needs masks, and {folder} has none: a.mask.png is the mask of a.png")
    weights, kept, skipped, sheet, shapes = [], [], [], ContactSheet(), Counter()
    with PictureEncoder(sd, len(files) * count_views(settings.crop, settings.flip)) as encoder:
        for placed in place_pictures(sd, files, size, settings, seed, skipped):
            kept.append(placed.number)
            for view in placed.views(settings.flip):
                weights.append(mask_array(view, placed.grid))
                encoder.add(view)
            sheet.add(placed.picture, placed.crops, captions[placed.number])
            shapes[placed.shape] += 1
        latents = stack_equal(encoder.each_latents())
    return EncodedPictures(latents, stack_equal(weights), kept, skipped, sheet.png(), shapes)


class PlacedPicture(NamedTuple):
    """A picture, and the crops of it that are trained.

    number: among the files. part: the part of the picture that may be trained. places: of the crops, in that part.
    corner: left and top of the part in the picture. shape: of a view in pixels. grid: of a view in latents.
    """

    number: int
    picture: Picture
    part: Picture
    places: list[Square | Box]
    corner: tuple[int, int]
    shape: Size
    grid: Size

    @property
    def crops(self) -> list[Square | Box]:
        """The crops, in pixels of the whole picture."""
        return [_shift(place, self.corner) for place in self.places]

    def views(self, flip: bool) -> Iterator[Picture]:
        """The training pictures. flip: also mirrored."""
        return crop_views(self.part, self.places, self.shape, flip)


def place_pictures(
    sd: StableDiffusion,
    files: Sequence[PictureFiles],
    size: int,
    settings: DataSettings,
    seed: int,
    skipped: list[UnreadableError],
) -> Iterator[PlacedPicture]:
    """The pictures that can be read, with their crops, one after the other. The others are added to `skipped`.

    Raises: UserError as `each_picture` does.
    """
    downscale, sizes = sd.models.vae.config.downscale, [(size, size)]
    if settings.aspect_buckets:
        sizes = bucket_sizes(size, downscale, len(sd.models.unet.config.block_out_channels) - 1)
    # A picture that is skipped does not change the crops of the others.
    numbers = {each.path: number for number, each in enumerate(files)}
    for picture in each_picture(files, skipped):
        number = numbers[picture.path]
        part, corner = _part_of(picture, size, settings)
        shape = nearest_bucket(part.image.size, sizes)
        grid = shape[0] // downscale, shape[1] // downscale
        places = place_views(part, np.random.default_rng((seed, 2, number)), shape, grid, settings.crop)
        yield PlacedPicture(number, picture, part, places, corner, shape, grid)


def _part_of(picture: Picture, size: int, settings: DataSettings) -> tuple[Picture, tuple[int, int]]:
    """The part of a picture that may be trained, and its left and top: around the mask, or the whole picture."""
    if picture.mask is None or not settings.crop_to_mask:
        return picture, (0, 0)
    region = mask_region(picture.mask, size, square=not settings.aspect_buckets)
    return cut(picture, region), (region.left, region.top)


def _shift(place: Square | Box, by: tuple[int, int]) -> Square | Box:
    return place._replace(left=place.left + by[0], top=place.top + by[1])
