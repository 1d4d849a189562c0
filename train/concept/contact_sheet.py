"""The contact sheet of a run: the pictures that are trained, with crops and masks drawn, and their captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.io.printing import printable
from train.concept.images import Box, Picture, Square

# Side of a picture on the sheet in pixels, and the number of pictures on it.
_SIDE, _MOST = 240, 64
_COLUMNS = 4
_FRAME, _LEFT_OUT = (0, 160, 0), (255, 255, 255)
MASKED = (220, 0, 60)
# How red a pixel becomes, by its value in the mask.
REDNESS = [(255 - white) * 3 // 5 for white in range(256)]


class ContactSheet:
    """Pictures are added one by one and shrunk at once, so that they need little memory.

    What no crop covers is pale. What the mask leaves out is red. Every crop has a green frame.
    """

    def __init__(self) -> None:
        self._tiles: list[np.ndarray] = []
        self._captions: list[str] = []
        self._more = 0

    def add(self, picture: Picture, crops: Sequence[Square | Box], caption: str) -> None:
        """Add a picture with its crops. Of many pictures only the first are shown."""
        if len(self._tiles) == _MOST:
            self._more += 1
            return
        self._tiles.append(_draw_tile(picture, crops))
        self._captions.append(f"{printable(picture.path.name)}: {caption}")

    def png(self) -> bytes:
        """The content of the PNG file; empty if there are no pictures."""
        tiles, captions = self._tiles, self._captions
        if self._more:
            tiles = [*tiles, np.full((_SIDE, _SIDE, 3), 255, np.uint8)]
            captions = [*captions, f"and {self._more} more"]
        return png_bytes(picture_grid(np.stack(tiles), captions, _COLUMNS)) if tiles else b""


def _draw_tile(picture: Picture, crops: Sequence[Square | Box]) -> np.ndarray:
    """The picture with its crops and its mask on a white square, uint8 [s, s, 3]."""
    width, height = picture.image.size
    scale = _SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = picture.image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if picture.mask:
        left_out = picture.mask.resize(size, Image.Resampling.BOX).point(REDNESS)
        image.paste(Image.new("RGB", size, MASKED), mask=left_out)
    frames = [_scale(crop, scale, size) for crop in crops]
    outside = Image.new("L", size, 170)
    for frame in frames:
        outside.paste(0, (frame[0], frame[1], frame[2] + 1, frame[3] + 1))
    image.paste(Image.new("RGB", size, _LEFT_OUT), mask=outside)
    pen = ImageDraw.Draw(image)
    for frame in frames:
        pen.rectangle(frame, outline=_FRAME, width=2)
    tile = Image.new("RGB", (_SIDE, _SIDE), "white")
    tile.paste(image, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return np.asarray(tile)


def _scale(crop: Square | Box, scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels left, top, right and bottom of a crop on a picture of `size`."""
    left, top, right, bottom = (round(edge * scale) for edge in crop.edges)
    return min(left, size[0] - 1), min(top, size[1] - 1), max(left, right - 1), max(top, bottom - 1)
