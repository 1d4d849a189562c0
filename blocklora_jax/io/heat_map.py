"""Draws a matrix as a picture, with a coloured cell and a number for each entry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

_CELL, _GAP = (64, 36), 6
_LOW, _HIGH = np.array([247, 247, 240]), np.array([190, 30, 45])


def heat_map(
    values: Float[np.ndarray, "r c"], rows: Sequence[str], columns: Sequence[str], title: str = "", top: float = 1.0
) -> Image.Image:
    """A picture of `values`: 0 is pale, `top` and more is red. Row names are at the left, column names above."""
    font = ImageFont.load_default(size=13)
    left = int(max((font.getlength(name) for name in rows), default=0)) + 2 * _GAP
    widest = int(max((font.getlength(name) for name in columns), default=0)) + 2 * _GAP
    wide, high = max(_CELL[0], widest), _CELL[1]
    head = high * (2 if title else 1)
    size = (
        max(left + wide * len(columns), int(font.getlength(title)) + 2 * _GAP) + _GAP,
        head + high * len(rows) + _GAP,
    )
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.text((_GAP, high / 2), title, "black", font, anchor="lm")
    for j, name in enumerate(columns):
        pen.text((left + (j + 0.5) * wide, head - high / 2), name, "black", font, anchor="mm")
    for i, name in enumerate(rows):
        pen.text((left - _GAP, head + (i + 0.5) * high), name, "black", font, anchor="rm")
        for j, value in enumerate(values[i]):
            corner = (left + j * wide, head + i * high)
            share = float(np.clip(value / top, 0, 1)) if np.isfinite(value) else 1.0
            colour = tuple(int(c) for c in np.round(_LOW + share * (_HIGH - _LOW)))
            pen.rectangle((*corner, corner[0] + wide - 2, corner[1] + high - 2), fill=colour)
            middle = (corner[0] + wide / 2, corner[1] + high / 2)
            pen.text(middle, f"{value:.2f}", "white" if share > 0.6 else "black", font, anchor="mm")
    return image


def dense_map(values: Float[np.ndarray, "k k"], names: Sequence[str], title: str = "") -> Image.Image:
    """A picture of a matrix whose rows and columns have the same names, without numbers: 0 is pale, 1 is red."""
    font = ImageFont.load_default(size=11)
    side = 14
    left = int(max((font.getlength(name) for name in names), default=0)) + 2 * _GAP
    size = (max(left + side * len(names), int(font.getlength(title)) + _GAP) + _GAP, 2 * side + side * len(names))
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.text((_GAP, side / 2), title, "black", font, anchor="lm")
    shares = np.clip(np.nan_to_num(values, nan=1.0), 0, 1)[..., None]
    cells = np.round(_LOW + shares * (_HIGH - _LOW)).astype(np.uint8)
    picture = Image.fromarray(np.kron(cells, np.ones((side, side, 1), np.uint8)))
    image.paste(picture, (left, side + side // 2))
    for index, name in enumerate(names):
        pen.text((left - _GAP, side + side // 2 + (index + 0.5) * side), name, "black", font, anchor="rm")
    return image
