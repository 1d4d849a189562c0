"""Things of the house and yard: mug, teapot, lamp, backpack and house."""

from __future__ import annotations

from blocklora_jax.pocket.world.pen import INK, Colour, Pen, arc, blob, box, oval, shade, soft_box
from blocklora_jax.pocket.world.pose import Pose
from blocklora_jax.pocket.world.traits import COLOURS, PAINT, VIVID, Choices, Look

_PATTERNS = ("plain", "stripes", "bands", "dots", "checks")
TRAITS: dict[str, Choices] = {
    "mug": {
        "body": PAINT, "trim": PAINT, "pattern": _PATTERNS, "shape": ("straight", "round", "tall"),
        "badge": ("none", "heart", "star", "face"), "steam": (False, True),
    },
    "teapot": {
        "body": PAINT, "trim": PAINT, "pattern": _PATTERNS, "shape": ("round", "tall", "squat"),
        "knob": ("ball", "cone"),
    },
    "lamp": {
        "shade": VIVID, "stand": PAINT, "pattern": _PATTERNS, "shape": ("cone", "drum", "dome"),
        "base": ("ball", "stick", "vase"),
    },
    "backpack": {
        "body": VIVID, "pocket": PAINT, "pattern": _PATTERNS, "shape": ("round", "square"),
        "badge": ("none", "star", "heart"),
        "straps": PAINT,
    },
    "house": {
        "wall": (*PAINT, "tan"), "roof": (*VIVID, "brown", "black"), "door": VIVID,
        "roof_shape": ("gable", "flat", "steep", "barn"),
        "pattern": ("plain", "plain", "bands", "stripes"), "chimney": (False, True), "windows": ("square", "round"),
    },
}  # fmt: skip


def _draw_badge(pen: Pen, kind: str, colour: Colour, x: float, y: float, r: float) -> None:
    spot = pen.at(x, y, r)
    if kind == "heart":
        spot.fill(
            colour,
            blob([(0, -1.0), (-1.0, 0.1), (-0.85, 0.8), (-0.3, 0.85), (0, 0.45), (0.3, 0.85), (0.85, 0.8), (1.0, 0.1)]),
            ink=None,
        )
    elif kind == "star":
        outer, inner = arc(0, 0, 1.1, 1.1, 90, 450, 6)[:-1], arc(0, 0, 0.5, 0.5, 126, 486, 6)[:-1]
        spot.fill(colour, [p for pair in zip(outer, inner, strict=True) for p in pair], ink=None)
    elif kind == "face":
        spot.fill(colour, oval(-0.55, 0.4, 0.24, 0.34), oval(0.55, 0.4, 0.24, 0.34), ink=None)
        spot.stroke(colour, 0.3, arc(0, 0, 0.7, 0.7, 205, 335, 8))


def draw_mug(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a mug with its handle to the right."""
    body, trim = COLOURS[traits["body"]], COLOURS[traits["trim"]]
    w, h = {"straight": (0.32, 0.72), "round": (0.34, 0.68), "tall": (0.25, 0.84)}[traits["shape"]]
    loop = oval(w, 0.52 * h, 0.18, 0.22)
    ring = [*loop.tolist(), loop[0].tolist()]
    pen.stroke(INK, 0.125, ring)
    pen.stroke(trim, 0.075, ring)
    pinch = 0.1 if traits["shape"] == "round" else 0.03
    hull = blob(
        [
            (-w, h),
            (-w - pinch / 2, h / 2),
            (-w + pinch, 0.03),
            (0, -0.01),
            (w - pinch, 0.03),
            (w + pinch / 2, h / 2),
            (w, h),
        ]
    )
    hull = [p for p in hull.tolist() if p[1] <= h]
    pen.fill(body, hull)
    if traits["badge"] == "none":
        pen.pattern(traits["pattern"], trim, hull, 0.18)
    _draw_badge(pen, traits["badge"], trim, 0, 0.45 * h, 0.17)
    pen.fill(body, oval(0, h, w, 0.08))
    pen.fill((104, 62, 40), oval(0, h - 0.01, 0.86 * w, 0.05), ink=None)
    if traits["steam"]:
        for x in (-0.1, 0.1):
            pen.stroke((236, 238, 244), 0.04, [(x, h + 0.08), (x + 0.04, h + 0.14), (x, h + 0.2), (x + 0.04, h + 0.26)])


def draw_teapot(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a teapot with its spout to the right."""
    body, trim = COLOURS[traits["body"]], COLOURS[traits["trim"]]
    w, h = {"round": (0.33, 0.62), "tall": (0.27, 0.74), "squat": (0.37, 0.5)}[traits["shape"]]
    loop = arc(-w + 0.03, 0.55 * h, 0.17, 0.3 * h, 75, 285, 14)
    pen.stroke(INK, 0.12, loop)
    pen.stroke(trim, 0.07, loop)
    pen.fill(
        trim,
        blob(
            [
                (0.8 * w, 0.2 * h),
                (w + 0.1, 0.5 * h),
                (w + 0.2, 0.98 * h),
                (w + 0.1, 0.98 * h),
                (w + 0.02, 0.72 * h),
                (0.8 * w, 0.6 * h),
            ]
        ),
    )
    pen.fill(trim, box(-0.6 * w, -0.0, 0.6 * w, 0.1))
    hull = oval(0, 0.04 + h / 2, w, h / 2, power=2.4)
    pen.fill(body, hull)
    pen.pattern(traits["pattern"], trim, hull, 0.19)
    pen.fill(trim, arc(0, h, 0.6 * w, 0.16, 0, 180, 12))
    knob = oval(0, h + 0.2, 0.07) if traits["knob"] == "ball" else [(-0.08, h + 0.15), (0.08, h + 0.15), (0, h + 0.32)]
    pen.fill(body, knob)


def draw_lamp(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a table lamp."""
    cover, stand = COLOURS[traits["shade"]], COLOURS[traits["stand"]]
    pen.fill(stand, oval(0, 0.04, 0.22, 0.05))
    pen.fill(stand, box(-0.035, 0.04, 0.035, 0.6))
    if traits["base"] == "ball":
        pen.fill(stand, oval(0, 0.24, 0.17))
    elif traits["base"] == "vase":
        pen.fill(stand, blob([(-0.09, 0.04), (-0.2, 0.28), (-0.06, 0.48), (0.06, 0.48), (0.2, 0.28), (0.09, 0.04)]))
    pen.fill((255, 240, 150), oval(0, 0.54, 0.09))
    hood = {
        "cone": [(-0.36, 0.55), (0.36, 0.55), (0.15, 0.98), (-0.15, 0.98)],
        "drum": box(-0.31, 0.55, 0.31, 0.96),
        "dome": arc(0, 0.55, 0.38, 0.42, 0, 180, 16),
    }[traits["shape"]]
    pen.fill(cover, hood)
    pen.pattern(traits["pattern"], shade(cover, 0.6), hood, 0.17)


def draw_backpack(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a backpack from the front."""
    body, pocket, straps = (COLOURS[traits[k]] for k in ("body", "pocket", "straps"))
    handle = arc(0, 0.88, 0.11, 0.1, 0, 180, 10)
    pen.stroke(INK, 0.11, handle)
    pen.stroke(straps, 0.06, handle)
    for side in (-1, 1):
        pen.fill(straps, soft_box(0.365 * side - 0.065, 0.08, 0.365 * side + 0.065, 0.5))
    sack = soft_box(-0.35, 0.0, 0.35, 0.9, power=5 if traits["shape"] == "square" else 2.8)
    pen.fill(body, sack)
    pen.pattern(traits["pattern"], shade(body, 0.55), sack, 0.2)
    pen.fill(pocket, soft_box(-0.25, 0.07, 0.25, 0.42, power=5))
    pen.stroke(INK, 0.03, [(-0.22, 0.34), (0.22, 0.34)])
    _draw_badge(pen, traits["badge"], straps, 0, 0.2, 0.11)
    pen.stroke(INK, 0.03, arc(0, 0.5, 0.27, 0.22, 20, 160, 10))


def draw_house(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a house with a door and two windows."""
    wall, roof, door = (COLOURS[traits[k]] for k in ("wall", "roof", "door"))
    if traits["chimney"]:
        pen.fill((170, 84, 66), box(0.18, 0.6, 0.3, 0.97))
    front = box(-0.38, 0.0, 0.38, 0.56)
    pen.fill(wall, front)
    pen.pattern(traits["pattern"], shade(wall, -0.22), front, 0.16)
    top = {
        "gable": [(-0.48, 0.53), (0.48, 0.53), (0, 0.95)],
        "steep": [(-0.44, 0.5), (0.44, 0.5), (0, 1.03)],
        "flat": [(-0.46, 0.54), (0.46, 0.54), (0.36, 0.78), (-0.36, 0.78)],
        "barn": [(-0.47, 0.5), (0.47, 0.5), (0.34, 0.8), (0, 0.95), (-0.34, 0.8)],
    }[traits["roof_shape"]]
    pen.fill(roof, top)
    pen.fill(door, box(-0.09, 0.0, 0.09, 0.33))
    pen.fill(COLOURS["yellow"], oval(0.045, 0.16, 0.02), ink=None)
    for x in (-0.24, 0.24):
        pane = oval(x, 0.32, 0.085) if traits["windows"] == "round" else box(x - 0.08, 0.24, x + 0.08, 0.41)
        pen.fill((180, 226, 250), pane)
