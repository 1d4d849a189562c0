"""Hair, behind the head and in front of it, in units of half the head's width."""

from __future__ import annotations

import numpy as np

from blocklora_jax.pocket.world.pen import Colour, Pen, arc, blob, mirror, oval, shade

_LONG = blob(
    [
        (-1.05, 0.9),
        (-1.35, 0.0),
        (-1.4, -1.2),
        (-1.1, -1.75),
        (0, -1.5),
        (1.1, -1.75),
        (1.4, -1.2),
        (1.35, 0.0),
        (1.05, 0.9),
        (0, 1.25),
    ]
)
_BOB = blob(
    [
        (-1.0, 0.9),
        (-1.35, 0.1),
        (-1.45, -0.85),
        (-0.9, -1.05),
        (0, -0.9),
        (0.9, -1.05),
        (1.45, -0.85),
        (1.35, 0.1),
        (1.0, 0.9),
        (0, 1.25),
    ]
)


def _cap(*fringe: tuple[float, float], rx: float = 1.1, ry: float = 1.24) -> np.ndarray:
    """The top of the head, down to a fringe whose points are given from left to right."""
    return np.concatenate([arc(0, 0, rx, ry, 0, 180, 16), np.array(fringe)])


_FRINGES = {
    "short": _cap((-0.98, 0.1), (-0.86, 0.42), (-0.35, 0.62), (0.4, 0.5), (0.86, 0.42), (0.98, 0.1)),
    "side": _cap((-1.0, -0.05), (-0.85, 0.3), (-0.5, 0.75), (0.1, 0.5), (0.9, 0.25), (1.0, -0.05), ry=1.34),
    "bowl": _cap((-1.02, -0.25), (-0.88, 0.28), (0.88, 0.28), (1.02, -0.25), rx=1.18, ry=1.26),
    "part": _cap((-1.02, -0.3), (-0.8, 0.25), (0.0, 0.85), (0.8, 0.25), (1.02, -0.3), rx=1.14, ry=1.26),
    "straight": _cap((-1.04, -0.5), (-0.84, 0.32), (0.84, 0.32), (1.04, -0.5), rx=1.18, ry=1.26),
    "sweep": _cap((-1.0, 0.0), (-0.75, 0.42), (-0.2, 0.72), (0.5, 0.68), (0.92, 0.3), (1.0, 0.0), rx=1.12),
}
_FRINGE_OF = {
    "short": "short", "side": "side", "bowl": "bowl", "long": "part", "bob": "straight", "bun": "sweep",
    "ponytail": "sweep", "wavy": "part", "pigtails": "part", "braids": "part", "puffs": "sweep", "afro": "short",
}  # fmt: skip
_SPIKES = np.array(
    [(-1.02, 0.05), (-1.35, 0.6), (-0.98, 0.75), (-1.05, 1.25), (-0.55, 1.1), (-0.35, 1.65), (0.05, 1.15), (0.5, 1.65),
     (0.62, 1.1), (1.1, 1.25), (0.98, 0.7), (1.35, 0.55), (1.02, 0.05), (0.8, 0.45), (0.3, 0.6), (-0.3, 0.5),
     (-0.8, 0.5)]
)  # fmt: skip
_CURL_RING = [oval(1.2 * np.cos(a), 0.1 + 1.15 * np.sin(a), 0.42) for a in np.radians(np.arange(-70, 251, 32))]
_CURL_TOP = [oval(1.0 * np.cos(a), 0.25 + 0.86 * np.sin(a), 0.36) for a in np.radians(np.arange(5, 176, 28))]


def draw_back(head: Pen, kind: str, colour: Colour) -> None:
    """Draws the hair behind the head and body."""
    dark = shade(colour, -0.18)
    if kind == "long":
        head.fill(dark, _LONG)
    elif kind == "bob":
        head.fill(dark, _BOB)
    elif kind == "afro":
        head.fill(colour, oval(0, 0.3, 1.6, 1.45))
    elif kind == "curly":
        head.fill(dark, *_CURL_RING, *[oval(x, y, 0.46) for x in (-1.3, 1.3) for y in (-0.95, -0.4)])
    elif kind == "wavy":
        head.fill(
            dark,
            *[oval(x * (1.1 + 0.12 * (i % 2)), 0.5 - 0.55 * i, 0.5) for i in range(5) for x in (-1, 1)],
            oval(0, 0.2, 1.2, 1.1),
        )
    elif kind == "bun":
        head.fill(colour, oval(0, 1.45, 0.5))
    elif kind == "ponytail":
        head.fill(colour, blob([(0.6, 1.1), (1.5, 1.2), (1.85, 0.2), (1.6, -0.9), (1.35, -0.2), (1.0, 0.4)]))
    elif kind == "pigtails":
        tail = blob([(-0.9, 0.5), (-1.4, 0.75), (-1.78, 0.1), (-1.62, -0.85), (-1.32, -0.5), (-1.15, 0.0)])
        head.fill(colour, tail, mirror(tail))
    elif kind == "braids":
        head.fill(colour, *[oval(1.22 * x, -0.25 - 0.42 * i, 0.29) for i in range(4) for x in (-1, 1)])
    elif kind == "puffs":
        head.fill(colour, oval(-1.0, 1.05, 0.6), oval(1.0, 1.05, 0.6))


def draw_front(head: Pen, kind: str, colour: Colour, *, covered: bool) -> None:
    """Draws the hair over the brow. covered: by a hat, so that only flat hair is drawn."""
    if kind == "bald":
        head.fill(colour, oval(-1.0, 0.18, 0.16, 0.32), oval(1.0, 0.18, 0.16, 0.32))
    elif kind == "spiky":
        head.fill(colour, _FRINGES["short"] if covered else _SPIKES)
    elif kind == "mohawk":
        if not covered:
            head.fill(colour, blob([(-0.3, 0.75), (-0.42, 1.5), (0, 1.85), (0.42, 1.5), (0.3, 0.75), (0, 0.62)]))
    elif kind in ("curly", "curls"):
        head.fill(colour, *_CURL_TOP)
    else:
        head.fill(colour, _FRINGES[_FRINGE_OF[kind]])
    if kind in ("pigtails", "braids"):
        for x in (-1.1, 1.1):
            head.fill(shade(colour, -0.35), oval(x, 0.28 if kind == "pigtails" else -0.1, 0.17), ink=None)
