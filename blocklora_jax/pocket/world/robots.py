"""Robots, with large heads and glowing eyes."""

from __future__ import annotations

from blocklora_jax.pocket.world.pen import INK, Colour, Pen, arc, box, oval, shade, soft_box
from blocklora_jax.pocket.world.pose import Pose
from blocklora_jax.pocket.world.traits import COLOURS, PAINT, VIVID, Choices, Look

_GLOW = {"cyan": (80, 230, 250), "red": (255, 70, 60), "green": (110, 240, 100), "yellow": (255, 230, 80)}
TRAITS: dict[str, Choices] = {
    "robot": {
        "body": PAINT, "trim": VIVID, "glow": tuple(_GLOW), "head": ("box", "dome", "round", "tv"),
        "eyes": ("two", "visor", "one"), "antenna": ("none", "one", "two"), "chest": ("dial", "buttons", "grille"),
    },
}  # fmt: skip


def draw_robot(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a robot with a large head."""
    body, trim, glow = COLOURS[traits["body"]], COLOURS[traits["trim"]], _GLOW[traits["glow"]]
    for side in (-1, 1):
        pen.fill(shade(body, -0.25), box(0.13 * side - 0.07, 0.0, 0.13 * side + 0.07, 0.12))
        hand = (0.4 * side, 0.1 + (0.22 * pose.wave if side > 0 else 0.04))
        pen.stroke(INK, 0.12, [(0.26 * side, 0.34), hand])
        pen.stroke(shade(body, -0.25), 0.07, [(0.26 * side, 0.34), hand])
        pen.fill(trim, oval(*hand, 0.065))
    pen.fill(body, soft_box(-0.26, 0.09, 0.26, 0.42))
    _draw_chest(pen, traits["chest"], trim, glow)
    head = pen.at(0.015 * pose.lean, 0.66, 0.3, turn=-5 * pose.lean)
    for x in {"none": (), "one": (0.0,), "two": (-0.55, 0.55)}[traits["antenna"]]:
        head.stroke(INK, 0.1, [(x, 0.6), (1.15 * x, 1.05)])
        head.fill(glow, oval(1.15 * x, 1.1, 0.14))
    head.fill(trim, oval(-1.08, 0, 0.16, 0.28), oval(1.08, 0, 0.16, 0.28))
    skull = {
        "box": soft_box(-1.0, -0.75, 1.0, 0.75),
        "tv": soft_box(-1.2, -0.72, 1.2, 0.72, power=4),
        "round": oval(0, 0, 0.98, 0.88),
        "dome": [*arc(0, -0.1, 1.0, 0.95, 0, 180, 18).tolist(), [-1.0, -0.72], [1.0, -0.72]],
    }[traits["head"]]
    head.fill(body, skull)
    _draw_robot_face(head, traits["eyes"], glow, pose)


def _draw_chest(pen: Pen, kind: str, trim: Colour, glow: Colour) -> None:
    if kind == "dial":
        pen.fill(glow, oval(0, 0.25, 0.1))
    elif kind == "buttons":
        for x, colour in ((-0.13, trim), (0.0, glow), (0.13, trim)):
            pen.fill(colour, oval(x, 0.26, 0.05), ink=None)
    else:
        for y in (0.18, 0.26, 0.34):
            pen.stroke(trim, 0.045, [(-0.15, y), (0.15, y)])


def _draw_robot_face(head: Pen, kind: str, glow: Colour, pose: Pose) -> None:
    dark = (44, 46, 60)
    g = 0.06 * pose.gaze
    if kind == "two":
        for x in (-0.42, 0.42):
            head.fill(dark, oval(x, 0.14, 0.3), ink=None)
            head.fill(glow, oval(x + g, 0.14, 0.19), ink=None)
    elif kind == "visor":
        head.fill(dark, soft_box(-0.78, -0.08, 0.78, 0.38), ink=None)
        head.fill(glow, oval(-0.36 + 2 * g, 0.15, 0.2, 0.13), oval(0.36 + 2 * g, 0.15, 0.2, 0.13), ink=None)
    else:
        head.fill(dark, oval(0, 0.14, 0.44), ink=None)
        head.fill(glow, oval(g, 0.14, 0.28), ink=None)
    if pose.mouth == "open":
        head.fill(dark, soft_box(-0.3, -0.58, 0.3, -0.32), ink=None)
    else:
        head.stroke(dark, 0.12, [(-0.34, -0.45), (0.34, -0.45)])
