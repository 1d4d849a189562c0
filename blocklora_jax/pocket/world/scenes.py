"""Scenes: soft backgrounds without outlines, so that outlined subjects stand out. The layout is random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from blocklora_jax.pocket.world import landscapes
from blocklora_jax.pocket.world.pen import Colour, Pen, arc, box, oval, shade
from blocklora_jax.pocket.world.traits import COLOURS, Choices, Look

Draw = Callable[[Pen, Look, np.random.Generator], None]

TRAITS: dict[str, Choices] = {
    "plain": {"wall": ("cream", "sky", "pink", "lime", "teal", "grey", "yellow", "purple")},
    "beach": {"sky": ("day", "dusk"), "umbrella": ("red", "yellow", "pink", "green")},
    "forest": {"leaf": ("deep", "fresh", "autumn")},
    "city": {"sky": ("day", "haze"), "tint": ("blue", "rose", "grey")},
    "snow": {"sky": ("pale", "grey")},
    "desert": {"sky": ("gold", "blue")},
    "night": {"sky": ("navy", "violet")},
    "room": {"wall": ("mint", "peach", "lilac", "butter"), "floor": ("oak", "dark")},
    "garden": {
        "flower": ("red", "pink", "yellow", "purple", "blue"),
        "fence": ("white", "brown", "sky"),
        "sky": ("day", "dusk"),
    },
    "space": {
        "planet": ("orange", "teal", "pink", "lime"),
        "ring": ("cream", "sky", "yellow"),
        "sky": ("black", "violet", "teal"),
    },
    "volcano": {
        "rock": ("black", "brown", "purple"),
        "lava": ("red", "orange", "yellow"),
        "sky": ("smoke", "blood", "green"),
    },
}
_SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((112, 190, 246), (206, 236, 252)), "dusk": ((244, 150, 120), (254, 216, 160)),
    "haze": ((190, 200, 222), (240, 226, 214)), "pale": ((176, 212, 240), (232, 242, 250)),
    "grey": ((170, 184, 204), (220, 226, 236)), "gold": ((250, 190, 96), (254, 230, 170)),
    "blue": ((100, 178, 236), (236, 226, 190)), "navy": ((14, 20, 58), (44, 62, 122)),
    "violet": ((30, 14, 64), (88, 52, 130)), "black": ((10, 8, 24), (34, 28, 66)),
    "teal": ((6, 36, 52), (22, 88, 104)), "smoke": ((86, 70, 82), (196, 140, 120)),
    "blood": ((110, 20, 36), (240, 120, 60)), "green": ((40, 70, 60), (170, 180, 90)),
}  # fmt: skip


def _sky(size: int, name: str, floor: float = 0.35) -> Image.Image:
    """A vertical gradient of colour from the top down to the height `floor`."""
    top, low = (np.array(c, dtype=float) for c in _SKIES[name])
    t = np.clip(np.linspace(0, 1, size) / (1 - floor), 0, 1)[:, None]
    rows = (top[None, :] * (1 - t) + low[None, :] * t).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(rows[:, None, :], (size, size, 3)).copy())


def _plain(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    wall = shade(COLOURS[t["wall"]], 0.45)
    pen.fill(wall, box(-0.1, -0.1, 1.1, 1.1), ink=None)
    pen.fill(shade(wall, 0.3), oval(0.5, 0.55, 0.55, 0.5), ink=None)


_TINTS = {"blue": (110, 130, 176), "rose": (186, 130, 140), "grey": (136, 140, 152)}


def _city(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    tint = _TINTS[t["tint"]]
    left = -0.02
    while left < 1.0:
        wide, tall = 0.17 + 0.08 * rng.random(), 0.55 + 0.38 * rng.random()
        colour = shade(tint, 0.35 * rng.random() - 0.15)
        pen.fill(colour, box(left, 0.15, left + wide - 0.015, tall), ink=None)
        rows = [y for y in (0.38, 0.5, 0.62, 0.74, 0.86) if y < tall - 0.07]
        panes = [
            box(left + f * wide - 0.025, y, left + f * wide + 0.025, y + 0.055) for y in rows for f in (0.27, 0.68)
        ]
        pen.fill((252, 232, 150), *panes, ink=None)
        left += wide
    pen.fill((196, 196, 202), box(-0.1, -0.1, 1.1, 0.27), ink=None)
    pen.fill((92, 94, 106), box(-0.1, -0.1, 1.1, 0.22), ink=None)
    start = -0.1 + 0.2 * rng.random()
    pen.fill((250, 246, 220), *[box(x, 0.09, x + 0.13, 0.115) for x in np.arange(start, 1.0, 0.27)], ink=None)


def _night(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    sky = _SKIES[t["sky"]][0]
    pen.fill((250, 246, 206), *[oval(x, 0.4 + 0.6 * y, 0.012 + 0.012 * r) for x, y, r in rng.random((14, 3))], ink=None)
    x = 0.14 if rng.random() < 0.5 else 0.86
    pen.fill((252, 240, 180), oval(x, 0.84, 0.11), ink=None)
    pen.fill(sky, oval(x + 0.05, 0.87, 0.09), ink=None)
    landscapes.draw_ground(pen, (30, 40, 70), 0.38, rng, 0.09)
    landscapes.draw_ground(pen, (22, 30, 48), 0.24, rng, 0.04)


_WALLS = {"mint": (176, 222, 196), "peach": (250, 206, 178), "lilac": (208, 192, 232), "butter": (250, 232, 170)}


def _room(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    wall = _WALLS[t["wall"]]
    pen.fill(wall, box(-0.1, -0.1, 1.1, 1.1), ink=None)
    pen.pattern("stripes", shade(wall, 0.22), box(0, 0, 1, 1), 0.2)
    pen.fill((184, 124, 76) if t["floor"] == "oak" else (110, 76, 62), box(-0.1, -0.1, 1.1, 0.25), ink=None)
    pen.fill((250, 246, 238), box(-0.1, 0.25, 1.1, 0.29), ink=None)
    left = rng.random() < 0.5
    x = 0.17 if left else 0.83
    pen.fill((250, 250, 250), box(x - 0.17, 0.5, x + 0.17, 0.94), ink=None)
    pen.fill((150, 210, 246), box(x - 0.14, 0.53, x - 0.012, 0.91), box(x + 0.012, 0.53, x + 0.14, 0.91), ink=None)
    x = 1 - x
    pen.fill((140, 90, 56), box(x - 0.13, 0.58, x + 0.13, 0.9), ink=None)
    pen.fill(
        shade(COLOURS[("red", "blue", "green", "orange")[int(4 * rng.random())]], 0.3),
        box(x - 0.1, 0.61, x + 0.1, 0.87),
        ink=None,
    )
    pen.fill(
        shade(COLOURS[("red", "blue", "teal", "purple")[int(4 * rng.random())]], 0.1),
        oval(0.5, 0.08, 0.46, 0.09),
        ink=None,
    )


def _space(pen: Pen, t: Look, rng: np.random.Generator) -> None:
    pen.fill((250, 246, 226), *[oval(x, y, 0.008 + 0.012 * r) for x, y, r in rng.random((18, 3))], ink=None)
    x, y = (0.2 if rng.random() < 0.5 else 0.8), 0.76 + 0.08 * rng.random()
    planet, ring = COLOURS[t["planet"]], COLOURS[t["ring"]]
    pen.fill(ring, oval(x, y, 0.27, 0.06, turn=20), ink=None)
    pen.fill(planet, oval(x, y, 0.15), ink=None)
    pen.fill(shade(planet, 0.35), oval(x - 0.04, y + 0.04, 0.08), ink=None)
    band = arc(0, 0, 0.27, 0.06, 180, 360, 12)
    pen.at(x, y, turn=20).stroke(ring, 0.03, band)
    pen.fill(shade(planet, 0.15), oval(1 - x, 0.62, 0.06), ink=None)
    landscapes.draw_ground(pen, (150, 146, 164), 0.2, rng, 0.03)
    pen.fill((118, 114, 136), *[oval(x, 0.08 + 0.08 * y, 0.08, 0.025) for x, y in rng.random((4, 2))], ink=None)


_DRAW: dict[str, Draw] = {
    "plain": _plain, "city": _city, "night": _night, "room": _room, "space": _space, "beach": landscapes.draw_beach,
    "forest": landscapes.draw_forest, "snow": landscapes.draw_snow, "desert": landscapes.draw_desert,
    "garden": landscapes.draw_garden, "volcano": landscapes.draw_volcano,
}  # fmt: skip


def draw_scene(name: str, traits: Look, size: int, rng: np.random.Generator) -> Image.Image:
    """The empty scene as an RGB image of size x size pixels."""
    image = _sky(size, str(traits["sky"])) if "sky" in traits else Image.new("RGB", (size, size))
    _DRAW[name](Pen(image), traits, rng)
    return image
