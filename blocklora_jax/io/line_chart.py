"""Draws curves, such as losses over the steps of a run, as one picture with a panel for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels of a panel. It is drawn larger and reduced, which makes its lines smooth.
_WIDTH, _HEIGHT, _SCALE = 340, 180, 2
_LEFT, _TOP, _RIGHT, _BOTTOM = 56, 26, 12, 24
_MOST_POINTS = 400
_PALE, _LINE, _AXIS = (196, 212, 232), (30, 90, 168), (150, 150, 150)


class Curve(NamedTuple):
    """Points of a curve: x, such as steps, in rising order, and y. Values that are not finite are left out."""

    x: Sequence[float]
    y: Sequence[float]


def line_chart(curves: Mapping[str, Curve], columns: int = 2) -> Image.Image:
    """A picture with a panel for each of `curves` that has points: the values pale, their running mean over them.

    The y axis begins at 0 if no value is negative. A few values at the beginning may leave the panel at its top.
    """
    finite = {name: _finite(curve) for name, curve in curves.items()}
    panels = [_panel(name, curve) for name, curve in finite.items() if len(curve.x)]
    columns = max(1, min(columns, len(panels)))
    rows = math.ceil(len(panels) / columns)
    chart = Image.new("RGB", (_WIDTH * columns, _HEIGHT * max(rows, 1)), "white")
    for i, panel in enumerate(panels):
        chart.paste(panel, (i % columns * _WIDTH, i // columns * _HEIGHT))
    return chart


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of each value and those before it, at most `window` of them; float64 [n]."""
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(values, np.float64)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _finite(curve: Curve) -> Curve:
    pairs = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    # Of many points the mean of neighbours is drawn.
    every = math.ceil(len(pairs) / _MOST_POINTS) if pairs else 1
    groups = [np.mean(pairs[i : i + every], axis=0) for i in range(0, len(pairs), every)]
    return Curve([float(g[0]) for g in groups], [float(g[1]) for g in groups])


def _panel(name: str, curve: Curve) -> Image.Image:
    s = _SCALE
    panel = Image.new("RGB", (_WIDTH * s, _HEIGHT * s), "white")
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(size=12 * s)
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    low, high = min(0.0, float(y.min())), float(np.quantile(y, 0.98)) if len(y) > 20 else float(y.max())
    high = high if high > low else low + 1.0
    left, top, right, bottom = _LEFT * s, _TOP * s, (_WIDTH - _RIGHT) * s, (_HEIGHT - _BOTTOM) * s
    across = left + (x - x[0]) / max(x[-1] - x[0], 1e-9) * (right - left)
    pen.text((left, top / 2), name, "black", font, anchor="lm")
    for value in (low, (low + high) / 2, high):
        height = bottom - (value - low) / (high - low) * (bottom - top)
        pen.line([(left, height), (right, height)], (228, 228, 228), s)
        pen.text((left - 4 * s, height), f"{value:.3g}", _AXIS, font, anchor="rm")
    pen.text((left, bottom + 4 * s), f"{x[0]:g}", _AXIS, font, anchor="la")
    pen.text((right, bottom + 4 * s), f"{x[-1]:g}", _AXIS, font, anchor="ra")
    for values, colour, width in ((y, _PALE, s), (running_mean(curve.y, max(1, len(y) // 10)), _LINE, 2 * s)):
        heights = bottom - (np.clip(values, low, high) - low) / (high - low) * (bottom - top)
        points = list(zip(across.tolist(), heights.tolist(), strict=True))
        if len(points) > 1:
            pen.line(points, colour, width, joint="curve")
        else:
            pen.ellipse([points[0][0] - s, points[0][1] - s, points[0][0] + s, points[0][1] + s], fill=colour)
    return panel.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
