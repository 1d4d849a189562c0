"""Animals: a seated dog, cat, bear or rabbit seen from the front."""

from __future__ import annotations

import numpy as np

from blocklora_jax.pocket.world.pen import INK, Colour, Pen, Shape, arc, blob, box, mirror, oval, shade
from blocklora_jax.pocket.world.pose import Pose
from blocklora_jax.pocket.world.traits import COLOURS, VIVID, Choices, Look

FURS: dict[str, Colour] = {
    "chestnut": (176, 102, 52),
    "gold": (240, 186, 92),
    "cream": (250, 232, 198),
    "white": (248, 248, 250),
    "grey": (144, 150, 162),
    "black": (66, 62, 74),
    "orange": (242, 142, 48),
    "cocoa": (116, 74, 52),
    "blue": (108, 156, 222),
    "rose": (240, 160, 180),
}
_SEATED: Choices = {
    "fur": tuple(FURS),
    "mark_colour": tuple(FURS),
    "marks": ("none", "patch", "mask", "spots", "stripes"),
    "eyes": ("black", "green", "blue", "yellow"),
    "wear": ("none", "collar", "collar", "bandana", "bow"),
    "wear_colour": VIVID,
}
TRAITS: dict[str, Choices] = {
    "dog": _SEATED | {"ears": ("flop", "long", "prick"), "tongue": (False, True)},
    "cat": _SEATED | {"ears": ("sharp", "wide"), "tail": ("plain", "tip", "rings")},
    "bear": _SEATED | {"ears": ("small", "big")},
    "rabbit": _SEATED | {"ears": ("up", "bent", "lop")},
}
_EAR: dict[str, Shape] = {
    "flop": blob([(-0.6, 0.85), (-1.15, 0.75), (-1.5, -0.05), (-1.25, -0.55), (-0.95, -0.1)]),
    "long": blob([(-0.6, 0.85), (-1.2, 0.7), (-1.55, -0.6), (-1.3, -1.35), (-0.95, -0.6)]),
    "prick": [(-1.0, 0.3), (-1.05, 1.5), (-0.25, 0.9)],
    "sharp": [(-1.0, 0.25), (-0.98, 1.55), (-0.2, 0.85)],
    "wide": [(-1.05, 0.1), (-1.4, 1.2), (-0.2, 0.9)],
    "small": oval(-0.78, 0.8, 0.36),
    "big": oval(-0.88, 0.85, 0.56),
    "up": blob([(-0.7, 0.6), (-0.85, 1.4), (-0.6, 2.2), (-0.25, 1.5), (-0.2, 0.7)]),
    "bent": blob([(-0.7, 0.6), (-0.8, 1.4), (-1.3, 1.75), (-1.1, 1.9), (-0.45, 1.9), (-0.2, 0.8)]),
    "lop": blob([(-0.5, 0.8), (-1.1, 0.9), (-1.6, -0.3), (-1.5, -1.2), (-1.1, -0.9), (-0.95, 0.0)]),
}
_EYES = {"black": INK, "green": (60, 170, 70), "blue": (50, 130, 230), "yellow": (226, 170, 20)}


def draw_seated(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a dog, cat, bear or rabbit that sits at the origin, one unit high."""
    fur, mark = FURS[traits["fur"]], FURS[traits["mark_colour"]]
    if traits["marks"] == "none":
        mark = fur
    _draw_tail(pen, name, traits, pose, fur, mark)
    torso = blob([(-0.2, 0.45), (-0.3, 0.2), (-0.28, 0.0), (0.28, 0.0), (0.3, 0.2), (0.2, 0.45)])
    pen.fill(fur, oval(-0.25, 0.11, 0.13), oval(0.25, 0.11, 0.13), torso)
    pen.fill(shade(mark, 0.35), oval(0, 0.22, 0.15, 0.19), ink=None)
    if traits["marks"] == "stripes":
        for y in (0.1, 0.22, 0.34):
            for side in (-1, 1):
                pen.stroke(mark, 0.05, [(0.27 * side, y), (0.17 * side, y - 0.02)])
    pen.fill(fur, oval(-0.14, 0.04, 0.11, 0.06), oval(0.14, 0.04, 0.11, 0.06))
    _draw_wear(pen, traits["wear"], COLOURS[traits["wear_colour"]])
    high, scale = (0.6, 0.25) if name == "rabbit" else (0.64, 0.265)
    head = pen.at(0.02 * pose.lean, high - (0.05 if name == "rabbit" else 0.0), scale, turn=-6 * pose.lean)
    _draw_head(head, name, traits, pose, fur, mark)


def _draw_tail(pen: Pen, name: str, traits: Look, pose: Pose, fur: Colour, mark: Colour) -> None:
    up = 0.2 * pose.wave
    if name == "cat":
        path = [(0.2, 0.08), (0.42, 0.12), (0.47, 0.3 + up / 2), (0.4, 0.45 + up)]
        pen.stroke(INK, 0.13, path)
        pen.stroke(fur, 0.085, path)
        if traits["tail"] == "tip":
            pen.fill(shade(fur, -0.5), oval(0.4, 0.46 + up, 0.05), ink=None)
        elif traits["tail"] == "rings":
            pen.stroke(shade(fur, -0.5), 0.09, [(0.45, 0.2), (0.46, 0.23)])
            pen.stroke(shade(fur, -0.5), 0.09, [(0.44, 0.36 + up), (0.43, 0.39 + up)])
    elif name == "dog":
        pen.fill(mark, blob([(0.2, 0.05), (0.38, 0.14), (0.46, 0.3 + up), (0.36, 0.3 + up), (0.28, 0.2)]))
    elif name == "rabbit":
        pen.fill(shade(fur, 0.5), oval(0.33, 0.14, 0.09))


def _draw_wear(pen: Pen, kind: str, colour: Colour) -> None:
    if kind == "collar":
        pen.fill(colour, oval(0, 0.42, 0.22, 0.07))
        pen.fill(COLOURS["yellow"], oval(0, 0.34, 0.05))
    elif kind == "bandana":
        pen.fill(colour, [(-0.24, 0.46), (0.24, 0.46), (0, 0.2)])
    elif kind == "bow":
        wing = blob([(0, 0.37), (-0.2, 0.46), (-0.2, 0.28)])
        pen.fill(colour, wing, mirror(wing))
        pen.fill(shade(colour, -0.3), oval(0, 0.37, 0.05))


def _draw_head(head: Pen, name: str, traits: Look, pose: Pose, fur: Colour, mark: Colour) -> None:
    ear = _EAR[traits["ears"]]
    behind = name != "dog" or traits["ears"] == "prick"
    ear_colour = mark if name == "dog" else fur
    if behind:
        head.fill(ear_colour, ear, mirror(ear))
        if name != "dog":
            _draw_ear_insides(head, ear)
    head.fill(fur, oval(0, 0, 1.12 if name == "bear" else 1.05, 0.96, power=2.3))
    _draw_marks(head, traits["marks"], mark)
    for side in (-1, 1):
        x = 0.42 * side
        if traits["eyes"] == "black":
            head.fill(INK, oval(x, 0.14, 0.17, 0.21), ink=None)
            head.fill(COLOURS["white"], oval(x + 0.05 * pose.gaze, 0.22, 0.07), ink=None)
        else:
            head.fill(_EYES[traits["eyes"]], oval(x, 0.14, 0.2, 0.23))
            head.fill(INK, oval(x + 0.06 * pose.gaze, 0.14, 0.08 if name == "cat" else 0.11, 0.19), ink=None)
    _draw_snout(head, name, traits, pose, fur, mark)
    if not behind:
        head.fill(shade(ear_colour, -0.12), ear, mirror(ear))


def _draw_ear_insides(head: Pen, ear: Shape) -> None:
    points = np.asarray(ear, dtype=float)
    inner = points.mean(0, keepdims=True) + 0.5 * (points - points.mean(0, keepdims=True))
    head.fill((246, 160, 168), inner, mirror(inner), ink=None)


def _draw_marks(head: Pen, kind: str, mark: Colour) -> None:
    if kind == "patch":
        head.fill(mark, oval(0.44, 0.18, 0.42, 0.46), ink=None)
    elif kind == "mask":
        head.fill(mark, oval(-0.45, 0.1, 0.42, 0.4), oval(0.45, 0.1, 0.42, 0.4), ink=None)
    elif kind == "spots":
        head.fill(
            mark, oval(-0.55, 0.5, 0.2), oval(0.1, 0.68, 0.2), oval(0.72, -0.25, 0.2), oval(-0.7, -0.35, 0.17), ink=None
        )
    elif kind == "stripes":
        for x in (-0.34, 0.0, 0.34):
            head.fill(mark, [(x - 0.1, 0.9), (x + 0.1, 0.9), (0.6 * x, 0.42)], ink=None)


def _draw_snout(head: Pen, name: str, traits: Look, pose: Pose, fur: Colour, mark: Colour) -> None:
    light = shade(mark if traits["marks"] == "mask" else fur, 0.55)
    wide = {"dog": 0.56, "bear": 0.52, "cat": 0.4, "rabbit": 0.4}[name]
    head.fill(light, oval(0, -0.42, wide, 0.4 if name in ("dog", "bear") else 0.3), ink=None)
    if name == "dog" and (traits["tongue"] or pose.mouth == "open"):
        head.fill((240, 96, 112), oval(0.02, -0.8, 0.19, 0.26))
    head.stroke(INK, 0.08, arc(-0.18, -0.5, 0.18, 0.16, 190, 350, 6))
    head.stroke(INK, 0.08, arc(0.18, -0.5, 0.18, 0.16, 190, 350, 6))
    if name == "rabbit":
        head.fill(COLOURS["white"], box(-0.12, -0.86, 0.12, -0.6))
    nose = {
        "dog": (INK, 0.24, 0.17),
        "bear": (INK, 0.27, 0.18),
        "cat": ((236, 110, 130), 0.15, 0.11),
        "rabbit": ((236, 110, 130), 0.15, 0.11),
    }
    colour, rx, ry = nose[name]
    head.fill(colour, oval(0, -0.26, rx, ry), ink=None)
    if name == "cat":
        for side in (-1, 1):
            for y in (-0.3, -0.52):
                head.stroke(INK, 0.05, [(0.5 * side, -0.4), (1.25 * side, y)])
