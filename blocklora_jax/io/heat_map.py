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
