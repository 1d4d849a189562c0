"""Birds: round, seen from the side."""

from __future__ import annotations

from blocklora_jax.pocket.world.pen import INK, Colour, Pen, blob, oval, shade
from blocklora_jax.pocket.world.pose import Pose
from blocklora_jax.pocket.world.traits import COLOURS, VIVID, Choices, Look

TRAITS: dict[str, Choices] = {
    "bird": {
        "body": (*VIVID, "white", "black", "brown"),
        "wing": (*VIVID, "white", "black"),
        "belly": ("cream", "white", "yellow", "pink", "sky", "orange"),
        "beak": ("orange", "yellow", "red", "black"),
        "beak_shape": ("short", "long", "hook"),
        "crest": ("none", "tuft", "spikes"),
        "tail": ("short", "fan"),
        "pattern": ("plain", "plain", "bands", "dots"),
    },
}


def draw_bird(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a bird that stands at the origin and looks to the right, one unit high."""
    body, wing = COLOURS[traits["body"]], COLOURS[traits["wing"]]
    beak = COLOURS[traits["beak"]]
    for x in (-0.06, 0.1):
        pen.stroke(INK, 0.07, [(x, 0.16), (x, 0.02), (x + 0.09, 0.02)])
        pen.stroke(beak, 0.035, [(x, 0.16), (x, 0.02), (x + 0.09, 0.02)])
    _draw_bird_tail(pen, traits["tail"], wing, pose)
    if traits["crest"] == "tuft":
        pen.fill(wing, oval(0.06, 0.93, 0.06, 0.1, turn=25), oval(0.16, 0.94, 0.06, 0.1, turn=-10))
    elif traits["crest"] == "spikes":
        pen.fill(
            wing, [(0.22, 0.85), (0.16, 1.0), (0.09, 0.9), (-0.02, 1.0), (-0.02, 0.87), (-0.14, 0.9), (-0.08, 0.75)]
        )
    head_y = 0.7
    trunk = blob([(-0.34, 0.42), (-0.18, 0.17), (0.12, 0.12), (0.32, 0.3), (0.32, 0.55), (0.05, 0.6), (-0.2, 0.58)])
    skull = oval(0.13, head_y, 0.235, 0.225)
    _draw_beak(pen, traits["beak_shape"], beak, head_y, pose)
    pen.fill(body, trunk, skull)
    pen.fill(COLOURS[traits["belly"]], oval(0.17, 0.33, 0.13, 0.19, turn=15), ink=None)
    feathers = blob([(-0.36, 0.34), (-0.18, 0.24), (0.06, 0.32), (0.1, 0.48), (-0.08, 0.56), (-0.26, 0.5)])
    pen.fill(wing, feathers + [[0.0, 0.05 * (pose.wave - 0.5)]])
    pen.pattern(traits["pattern"], shade(wing, -0.45), feathers + [[0.0, 0.05 * (pose.wave - 0.5)]], 0.13)
    pen.fill(COLOURS["white"], oval(0.2, head_y + 0.03, 0.08, 0.09))
    pen.fill(INK, oval(0.215 + 0.015 * pose.gaze, head_y + 0.03, 0.045, 0.055), ink=None)


def _draw_bird_tail(pen: Pen, kind: str, colour: Colour, pose: Pose) -> None:
    lift = 0.08 * pose.wave
    if kind == "fan":
        pen.fill(colour, *[oval(-0.4, 0.44 + lift, 0.19, 0.06, turn=t) for t in (-45, -10, 25)])
    else:
        pen.fill(colour, [(-0.2, 0.5), (-0.52, 0.52 + lift), (-0.5, 0.4 + lift), (-0.25, 0.32)])


def _draw_beak(pen: Pen, kind: str, colour: Colour, y: float, pose: Pose) -> None:
    if kind == "hook":
        pen.fill(
            colour, blob([(0.28, y + 0.09), (0.44, y + 0.06), (0.48, y - 0.13), (0.4, y - 0.06), (0.28, y - 0.08)])
        )
        return
    reach = 0.62 if kind == "long" else 0.5
    gape = 0.04 if pose.mouth == "open" else 0.0
    pen.fill(
        colour,
        [(0.3, y + 0.09), (reach, y - 0.01 + gape), (0.3, y - 0.02)],
        [(0.3, y), (reach - 0.05, y - 0.03 - gape), (0.3, y - 0.09)],
    )
