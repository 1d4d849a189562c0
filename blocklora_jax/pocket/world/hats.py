"""Hats and bows, in units of half the head's width."""

from __future__ import annotations

import numpy as np

from blocklora_jax.pocket.world.pen import Colour, Pen, arc, blob, box, mirror, oval

_DOME = arc(0, 0.5, 1.14, 0.95, 0, 180, 16)


def draw_hat(head: Pen, kind: str, colour: Colour, trim: Colour) -> None:
    """Draws a cap, beanie, brimmed hat, top hat, headband, crown or bow; "none" draws nothing."""
    if kind == "cap":
        head.fill(colour, _DOME)
        head.fill(trim, blob([(-0.2, 0.62), (0.9, 0.66), (1.75, 0.45), (1.5, 0.32), (0.6, 0.42), (-0.2, 0.45)]))
    elif kind == "beanie":
        head.fill(trim, oval(0, 1.6, 0.3))
        head.fill(colour, arc(0, 0.5, 1.14, 1.08, 0, 180, 16))
        head.fill(trim, oval(0, 0.55, 1.22, 0.25, power=4))
    elif kind == "brim":
        head.fill(colour, oval(0, 0.6, 1.85, 0.27))
        head.fill(colour, arc(0, 0.6, 0.98, 0.98, 0, 180, 16))
        head.fill(trim, box(-0.97, 0.6, 0.97, 0.86), ink=None)
    elif kind == "top":
        head.fill(colour, oval(0, 0.62, 1.5, 0.2))
        head.fill(colour, box(-0.85, 0.62, 0.85, 1.85))
        head.fill(trim, box(-0.85, 0.72, 0.85, 1.02), ink=None)
    elif kind == "headband":
        head.fill(colour, np.concatenate([arc(0, 0, 1.16, 1.3, 25, 155, 12), arc(0, 0, 1.05, 0.92, 150, 30, 12)]))
    elif kind == "crown":
        head.fill(
            (250, 206, 60), [(-0.85, 0.8), (-0.95, 1.6), (-0.42, 1.2), (0, 1.75), (0.42, 1.2), (0.95, 1.6), (0.85, 0.8)]
        )
        head.fill(colour, oval(0, 1.05, 0.17), ink=None)
    elif kind == "bow":
        wing = blob([(0.5, 1.1), (0.0, 1.5), (-0.15, 1.1), (0.0, 0.75)])
        head.fill(colour, wing, mirror(wing) + np.array([[1.0, 0.0]]))
        head.fill(trim, oval(0.5, 1.1, 0.2))
    elif kind != "none":
        raise ValueError(f"unknown hat {kind!r}")
