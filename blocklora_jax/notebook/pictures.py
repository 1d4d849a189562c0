"""Pictures side by side, to look at in a notebook or anywhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.io.picture_grid import picture_grid

# Pixels. Smaller pictures are enlarged, so that details can be seen.
_LEAST = 192


def show(
    images: Sequence[np.ndarray], captions: Sequence[str] | None = None, columns: int | None = None
) -> Image.Image:
    """One picture of `images` with a caption under each. At the end of a cell, a notebook displays it.

    images: uint8 [n, h, w, 3] as `generate` gives them, or a list of pictures of one size. captions: one for each.
    columns: default: all in one row if there are at most four, else about as many columns as rows.

    Raises: UserError for pictures of several sizes, or another number of captions.

    >>> show(np.zeros((2, 64, 64, 3), np.uint8), ["one", "two"]).width > 2 * 192
    True
    """
    if len({np.shape(image) for image in images}) != 1:
        raise UserError(f"{len(images)} pictures of different sizes, or none: show those of one size together")
    if captions is not None and len(captions) != len(images):
        raise UserError(f"{len(captions)} captions for {len(images)} pictures: give one for each")
    stacked = np.stack([np.asarray(image, np.uint8) for image in images])
    columns = columns or (len(images) if len(images) <= 4 else None)
    return picture_grid(stacked, captions, columns, scale=max(1, -(-_LEAST // stacked.shape[1])))
