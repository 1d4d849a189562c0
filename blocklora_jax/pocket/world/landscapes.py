"""Landscapes: beach, forest, snow, desert, garden and volcano, drawn over a sky in soft shapes without outlines."""

from __future__ import annotations

import numpy as np

from blocklora_jax.pocket.world.pen import Colour, Pen, arc, blob, box, oval, shade
from blocklora_jax.pocket.world.traits import COLOURS, Look


def draw_ground(pen: Pen, colour: Colour, height: float, rng: np.random.Generator, bumps: float = 0.03) -> None:
    """Draws rolling ground of about the given height."""
    a, b, c, d = height + bumps * (2 * rng.random(4) - 1)
    pen.fill(colour, blob([(-0.3, -0.2), (-0.3, a), (0.15, b), (0.55, c), (1.3, d), (1.3, -0.2)]), ink=None)


def _sides(rng: np.random.Generator, count: int) -> np.ndarray:
    """Positions of `count` props: evenly spaced with a random offset. The outer two are at the edges."""
    return np.linspace(0.04, 0.96, count) + 0.05 * (2 * rng.random(count) - 1)


def draw_beach(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    """Draws sea, sand, a sun, and a parasol or a palm at one side."""
    horizon = 0.5 + 0.08 * rng.random()
    pen.fill((255, 240, 150), oval(0.12 + 0.76 * rng.random(), 0.86, 0.09), ink=None)
    pen.fill((40, 136, 200), box(-0.1, -0.1, 1.1, horizon), ink=None)
    pen.fill((86, 186, 222), box(-0.1, -0.1, 1.1, horizon - 0.1), ink=None)
    draw_ground(pen, (250, 244, 232), 0.34, rng)
    draw_ground(pen, (246, 214, 144), 0.31, rng)
    x = 0.1 if rng.random() < 0.5 else 0.9
    if rng.random() < 0.5:
        pole = 0.12 * (0.5 - x)
        pen.stroke((250, 250, 250), 0.025, [(x, 0.15), (x + pole, 0.62)])
        cover = arc(x + pole, 0.58, 0.24, 0.17, 0, 180, 14)
        pen.fill(COLOURS[t["umbrella"]], cover, ink=None)
        pen.pattern("stripes", (255, 255, 255), cover, 0.16)
    else:
        lean = 0.1 * (0.5 - x)
        pen.stroke((150, 104, 62), 0.045, [(x, 0.2), (x + lean, 0.5), (x + 3 * lean, 0.78)])
        pen.fill(
            (46, 146, 78),
            *[
                oval(x + 3 * lean + 0.11 * np.cos(a), 0.78 + 0.06 * np.sin(a), 0.15, 0.04, turn=float(np.degrees(a)))
                for a in (0.3, 1.2, 2.0, 2.9, 3.8, 5.6)
            ],
            ink=None,
        )


_LEAVES = {"deep": (38, 104, 64), "fresh": (92, 164, 62), "autumn": (214, 128, 46)}


def draw_forest(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    """Draws trunks and crowns of trees under a closed canopy."""
    leaf = _LEAVES[t["leaf"]]
    pen.fill(shade(leaf, 0.5), box(-0.1, -0.1, 1.1, 1.1), ink=None)
    pen.fill(shade(leaf, 0.25), *[oval(x, 0.5, 0.16, 0.34) for x in _sides(rng, 5)], ink=None)
    draw_ground(pen, shade(leaf, -0.1) if t["leaf"] != "autumn" else (168, 130, 60), 0.27, rng)
    for x in _sides(rng, 4):
        trunk = 0.03 + 0.02 * rng.random()
        pen.fill(
            (104, 70, 48),
            [(x - trunk, 0.22), (x + trunk, 0.22), (x + 0.7 * trunk, 0.8), (x - 0.7 * trunk, 0.8)],
            ink=None,
        )
        y = 0.8 + 0.1 * rng.random()
        pen.fill(leaf, oval(x, y, 0.17, 0.15), oval(x - 0.1, y - 0.08, 0.11), oval(x + 0.1, y - 0.06, 0.11), ink=None)
    pen.fill(
        shade(leaf, -0.25), box(-0.1, 0.96, 1.1, 1.1), *[oval(x, 1.0, 0.22, 0.18) for x in _sides(rng, 4)], ink=None
    )


def draw_snow(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    """Draws white hills, firs and falling snowflakes."""
    draw_ground(pen, (206, 222, 240), 0.5, rng, 0.1)
    for x in _sides(rng, 4):
        y, s = 0.34 + 0.06 * rng.random(), 0.8 + 0.5 * rng.random()
        pen.fill((62, 118, 110), [(x - 0.12 * s, y), (x + 0.12 * s, y), (x, y + 0.38 * s)], ink=None)
        pen.fill(
            (244, 248, 252), [(x - 0.06 * s, y + 0.2 * s), (x + 0.06 * s, y + 0.2 * s), (x, y + 0.38 * s)], ink=None
        )
    draw_ground(pen, (246, 249, 253), 0.36, rng, 0.05)
    pen.fill((255, 255, 255), *[oval(x, y, 0.014 + 0.012 * r) for x, y, r in rng.random((16, 3))], ink=None)


def draw_desert(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    """Draws dunes, a low sun, and a cactus at one side."""
    pen.fill((255, 246, 196), oval(0.12 + 0.76 * rng.random(), 0.84, 0.1), ink=None)
    draw_ground(pen, (224, 150, 84), 0.5, rng, 0.1)
    x = (0.1 if rng.random() < 0.5 else 0.9) + 0.06 * rng.random() - 0.03
    side = 1 if x < 0.5 else -1
    green = (70, 140, 82)
    pen.stroke(green, 0.075, [(x, 0.25), (x, 0.76)])
    pen.stroke(green, 0.05, [(x, 0.45), (x + 0.1 * side, 0.45), (x + 0.1 * side, 0.6)])
    pen.stroke(green, 0.05, [(x, 0.52), (x - 0.1 * side, 0.52), (x - 0.1 * side, 0.68)])
    draw_ground(pen, (240, 178, 104), 0.36, rng, 0.07)
    draw_ground(pen, (248, 200, 128), 0.2, rng, 0.06)


def draw_garden(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    """Draws a hedge, a fence, a lawn and a row of flowers."""
    pen.fill((112, 178, 92), *[oval(x, 0.48, 0.17, 0.2) for x in _sides(rng, 4)], ink=None)
    fence = shade(COLOURS[t["fence"]], 0.05)
    pen.fill(
        fence,
        *[
            [(x, 0.2), (x, 0.54), (x + 0.04, 0.6), (x + 0.08, 0.54), (x + 0.08, 0.2)]
            for x in np.arange(-0.06, 1.0, 0.13)
        ],
        ink=None,
    )
    pen.fill(fence, box(-0.1, 0.42, 1.1, 0.47), ink=None)
    draw_ground(pen, (104, 184, 84), 0.31, rng, 0.02)
    petal = COLOURS[t["flower"]]
    for x in _sides(rng, 6):
        y = 0.18 + 0.14 * rng.random()
        pen.stroke((52, 130, 60), 0.02, [(x, 0.0), (x, y)])
        pen.fill(
            petal,
            *[oval(x + 0.045 * np.cos(a), y + 0.045 * np.sin(a), 0.035) for a in np.arange(0.3, 6.2, 1.2566)],
            ink=None,
        )
        pen.fill((255, 226, 110), oval(x, y, 0.028), ink=None)


def draw_volcano(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    """Draws a smoking volcano with lava on its slope and in front of it."""
    x = 0.3 + 0.4 * rng.random()
    rock, lava = shade(COLOURS[t["rock"]], -0.1), COLOURS[t["lava"]]
    pen.fill(
        (126, 112, 120),
        *[oval(x + dx, 0.92 + dy, r) for dx, dy, r in ((0, 0, 0.1), (-0.12, 0.06, 0.12), (0.13, 0.07, 0.13))],
        ink=None,
    )
    pen.fill(rock, [(x - 0.62, 0.15), (x - 0.12, 0.82), (x + 0.12, 0.82), (x + 0.62, 0.15)], ink=None)
    pen.fill(
        lava,
        blob(
            [
                (x - 0.13, 0.84),
                (x - 0.16, 0.6),
                (x - 0.24, 0.4),
                (x - 0.08, 0.58),
                (x, 0.3),
                (x + 0.07, 0.6),
                (x + 0.22, 0.45),
                (x + 0.15, 0.66),
                (x + 0.13, 0.84),
            ]
        ),
        ink=None,
    )
    draw_ground(pen, shade(rock, -0.3), 0.27, rng)
    pen.fill(
        lava,
        blob([(-0.1, 0.16), (0.3, 0.2), (0.7, 0.13), (1.1, 0.18), (1.1, 0.1), (0.7, 0.06), (0.3, 0.11), (-0.1, 0.08)]),
        ink=None,
    )
