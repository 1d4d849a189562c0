"""A pen that draws flat, outlined shapes in local coordinates on a Pillow image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Shape = np.ndarray | Sequence[tuple[float, float]]

INK: Colour = (38, 30, 44)

_ANGLES = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_COS, _SIN = np.cos(_ANGLES), np.sin(_ANGLES)

_T = np.linspace(0.0, 1.0, 6, endpoint=False)
# Catmull-Rom basis: row t has the weights of the four neighbouring points.
_CATMULL = 0.5 * np.stack(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, -(_T**2) + _T**3], axis=1
)


def oval(
    x: float, y: float, rx: float, ry: float | None = None, *, power: float = 2.0, turn: float = 0.0
) -> np.ndarray:
    """Points of an ellipse at (x, y). power: above 2, the shape is closer to a rectangle. turn: rotation in degrees."""
    ry = rx if ry is None else ry
    if power == 2.0:
        px, py = rx * _COS, ry * _SIN
    else:
        px = rx * np.sign(_COS) * np.abs(_COS) ** (2 / power)
        py = ry * np.sign(_SIN) * np.abs(_SIN) ** (2 / power)
    if turn:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        px, py = c * px - s * py, s * px + c * py
    return np.stack([x + px, y + py], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Corners of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def soft_box(x0: float, y0: float, x1: float, y1: float, power: float = 6.0) -> np.ndarray:
    """A rectangle with rounded corners. A larger `power` makes the corners sharper."""
    return oval((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, power=power)


def blob(points: Shape) -> np.ndarray:
    """A smooth closed curve through the given points."""
    p = np.asarray(points, dtype=float)
    around = np.stack([np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)], axis=1)
    return np.einsum("tk,nkd->ntd", _CATMULL, around).reshape(-1, 2)


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, count: int = 14) -> np.ndarray:
    """Points on an ellipse from `start` to `stop` degrees, counter-clockwise."""
    angles = np.radians(np.linspace(start, stop, count))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def mirror(shape: Shape) -> np.ndarray:
    """The shape with left and right exchanged."""
    return np.asarray(shape, dtype=float) * np.array([[-1.0, 1.0]])


def mix(colour: Colour, other: Colour, amount: float) -> Colour:
    """The colour moved towards another by `amount` in 0..1."""
    r, g, b = (int(c + (o - c) * amount) for c, o in zip(colour, other, strict=True))
    return r, g, b


def shade(colour: Colour, amount: float) -> Colour:
    """The colour moved towards black (negative amount) or white (positive amount), -1..1."""
    return mix(colour, (255, 255, 255) if amount > 0 else (0, 0, 0), abs(amount))


class Pen:
    """Draws on `image` in local coordinates.

    The origin is at (x, y) in the picture, y points upward, and the unit is `scale` times the picture's side.
    """

    def __init__(
        self,
        image: Image.Image,
        x: float = 0.0,
        y: float = 0.0,
        scale: float = 1.0,
        *,
        flip: bool = False,
        turn: float = 0.0,
        ink_width: float = 1.0,
    ):
        size = image.width
        k, sign = scale * size, -1.0 if flip else 1.0
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        self._set(
            image,
            np.array([[k * sign * c, -k * sign * s], [-k * s, -k * c]]),
            np.array([x * size, (1.0 - y) * size]),
            max(1, round(ink_width * size / 64)),
        )

    def _set(self, image: Image.Image, matrix: np.ndarray, origin: np.ndarray, width: int) -> None:
        self.image, self.matrix, self.origin, self.width = image, matrix, origin, width
        self.unit = float(np.hypot(matrix[0, 0], matrix[0, 1]))
        self.draw = ImageDraw.Draw(image)

    def at(self, x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> Pen:
        """A pen with its origin at local (x, y), and with its own scale and rotation in degrees."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        child = Pen.__new__(Pen)
        local = scale * np.array([[c, s], [-s, c]])
        child._set(self.image, local @ self.matrix, np.array([x, y]) @ self.matrix + self.origin, self.width)
        return child

    def _flat(self, shape: Shape) -> list[float]:
        return (np.asarray(shape, dtype=float) @ self.matrix + self.origin[None, :]).ravel().tolist()

    def fill(self, colour: Colour, *shapes: Shape, ink: Colour | None = INK) -> None:
        """Fills the union of the shapes, and draws an outline around it with `ink`. None: no outline."""
        flats = [self._flat(s) for s in shapes]
        if ink is not None:
            for flat in flats:
                joint = "curve" if len(flat) <= 20 else None
                self.draw.line(flat + flat[:4], ink, 2 * self.width, joint)
        for flat in flats:
            self.draw.polygon(flat, colour)

    def stroke(self, colour: Colour, width: float, points: Shape) -> None:
        """Draws an open line of local `width` with round ends. It is at least one output pixel wide."""
        flat = self._flat(points)
        pixels = max(self.width, round(width * self.unit))
        self.draw.line(flat, colour, pixels, "curve" if pixels > 4 else None)
        r = pixels / 2 - 0.5
        for px, py in (flat[:2], flat[-2:]):
            self.draw.ellipse((px - r, py - r, px + r, py + r), colour)

    def pattern(self, kind: str, colour: Colour, shape: Shape, period: float = 0.16) -> None:
        """Draws stripes, bands, dots or checks of `colour` over the inside of `shape`. "plain" does nothing."""
        if kind == "plain":
            return
        p = np.asarray(shape, dtype=float)
        (x0, y0), (x1, y1) = p.min(0), p.max(0)
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self._flat(p), 1)
        layer = self.image.copy()
        top = self.at(0, 0)
        top.image, top.draw = layer, ImageDraw.Draw(layer)
        for cell in _pattern_cells(kind, x0, y0, x1, y1, period):
            top.fill(colour, cell, ink=None)
        self.image.paste(layer, mask=mask)


def _pattern_cells(kind: str, x0: float, y0: float, x1: float, y1: float, period: float) -> list[np.ndarray]:
    centre = (x0 + x1) / 2
    columns = centre + period * np.arange(-math.ceil((x1 - x0) / 2 / period), math.ceil((x1 - x0) / 2 / period) + 1)
    rows = y0 + period * (0.25 + np.arange(math.ceil((y1 - y0) / period)))
    half = period / 2
    if kind == "stripes":
        return [box(x - half / 2, y0, x + half / 2, y1) for x in columns]
    if kind == "bands":
        return [box(x0, y, x1, y + half) for y in rows]
    if kind == "dots":
        return [
            oval(x + (half if j % 2 else 0), y + half / 2, 0.32 * period) for j, y in enumerate(rows) for x in columns
        ]
    if kind == "checks":
        return [
            box(x - half + (half if j % 2 else 0), y, x + (half if j % 2 else 0), y + half)
            for j, y in enumerate(np.arange(y0, y1, half))
            for x in columns
        ]
    raise ValueError(f"unknown pattern {kind!r}; known are plain, stripes, bands, dots, checks")
