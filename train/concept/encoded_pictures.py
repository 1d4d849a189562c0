"""The views of a concept's pictures as latents and loss weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.pipeline import StableDiffusion
from train.concept.contact_sheet import ContactSheet
from train.concept.encode import PictureEncoder
from train.concept.images import each_picture, mask_array
from train.concept.open_picture import UnreadableError
from train.concept.picture_files import PictureFiles
from train.concept.settings.data import DataSettings
from train.concept.views import count_views, crop_views, place_views


class EncodedPictures(NamedTuple):
    """All views of the pictures that could be read, picture by picture.

    latents: fp32 [n, h, w, c], scaled. weights: of the loss, fp32 [n, h, w, 1]. kept: the numbers of the pictures among
    the files. skipped: the files that could not be read. contact_sheet: the content of its PNG file.
    """

    latents: Float[np.ndarray, "n h w c"]
    weights: Float[np.ndarray, "n h w 1"]
    kept: list[int]
    skipped: list[UnreadableError]
    contact_sheet: bytes


def encode_pictures(
    sd: StableDiffusion,
    files: Sequence[PictureFiles],
    captions: Sequence[str],
    size: int,
    settings: DataSettings,
    seed: int,
) -> EncodedPictures:
    """Read, crop and encode `files`. One picture is in memory at a time. captions: of the files, for the contact sheet.

    Raises: UserError as `each_picture` and `mask_array` do.
    """
    grid, weights, kept, skipped, sheet = size // sd.models.vae.config.downscale, [], [], [], ContactSheet()
    # A picture that is skipped does not change the crops of the others.
    numbers = {each.path: number for number, each in enumerate(files)}
    with PictureEncoder(sd, len(files) * count_views(settings.crop, settings.flip)) as encoder:
        for picture in each_picture(files, skipped):
            kept.append(number := numbers[picture.path])
            rng = np.random.default_rng((seed, 2, number))
            places = place_views(picture, rng, size, grid, settings.crop)
            for view in crop_views(picture, places, size, settings.flip):
                weights.append(mask_array(view, grid))
                encoder.add(view)
            sheet.add(picture, places, captions[number])
        return EncodedPictures(encoder.latents(), np.stack(weights), kept, skipped, sheet.png())
