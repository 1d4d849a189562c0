"""Vehicles: car, boat and rocket."""

from __future__ import annotations

import numpy as np

from blocklora_jax.pocket.world.pen import INK, Pen, arc, blob, box, oval, shade
from blocklora_jax.pocket.world.pose import Pose
from blocklora_jax.pocket.world.traits import COLOURS, PAINT, VIVID, Choices, Look

_GLASS = (190, 230, 250)
TRAITS: dict[str, Choices] = {
    "car": {
        "body": (*VIVID, "white", "black", "grey"), "trim": PAINT, "shape": ("sedan", "beetle", "van", "truck"),
        "stripe": ("none", "band", "flames", "door"), "rims": ("grey", "white", "yellow", "red"),
        "rack": (False, False, True),
    },
    "boat": {
        "hull": (*VIVID, "white", "brown"), "trim": PAINT, "sail": (*VIVID, "white", "cream"),
        "rig": ("sails", "square", "steamer"),
        "pattern": ("plain", "plain", "bands", "stripes", "dots"), "flag": VIVID,
    },
    "rocket": {
        "body": PAINT, "fins": VIVID, "nose": VIVID, "pattern": ("plain", "bands", "checks"), "portholes": (1, 2),
        "shape": ("slim", "fat"),
    },
}  # fmt: skip


def draw_car(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a car that drives to the right, 1.35 units wide and 0.8 high."""
    body, trim = COLOURS[traits["body"]], COLOURS[traits["trim"]]
    hull, panes = _CARS[traits["shape"]]
    if traits["rack"]:
        top = max(y for _, y in hull)
        pen.fill(trim, box(-0.3, top, 0.12, top + 0.1))
    pen.fill(body, hull)
    if traits["stripe"] == "band":
        pen.fill(trim, box(-0.64, 0.2, 0.64, 0.28), ink=None)
    elif traits["stripe"] == "flames":
        pen.fill(
            trim,
            [(0.64, 0.36), (0.2, 0.36), (0.32, 0.3), (0.05, 0.28), (0.26, 0.22), (0.0, 0.17), (0.64, 0.17)],
            ink=None,
        )
    elif traits["stripe"] == "door":
        pen.fill(trim, oval(-0.02, 0.26, 0.12), ink=None)
    pen.fill(_GLASS, *panes)
    pen.fill((255, 236, 140), oval(0.62, 0.3, 0.06))
    for x in (-0.38, 0.38):
        pen.fill((58, 56, 66), oval(x, 0.13, 0.16))
        pen.fill(COLOURS[traits["rims"]], oval(x, 0.13, 0.085), ink=None)


_CARS = {
    "sedan": (
        blob([(-0.68, 0.12), (-0.68, 0.38), (-0.44, 0.43), (-0.28, 0.68), (0.18, 0.68), (0.36, 0.43), (0.64, 0.38),
              (0.68, 0.12)]),
        ([(-0.32, 0.44), (-0.21, 0.61), (-0.07, 0.61), (-0.07, 0.44)],
        [(0.01, 0.44), (0.01, 0.61), (0.13, 0.61), (0.25, 0.44)]),
    ),
    "beetle": (
        blob([(-0.66, 0.12), (-0.6, 0.42), (-0.3, 0.72), (0.1, 0.74), (0.36, 0.46), (0.6, 0.4), (0.66, 0.12)]),
        (blob([(-0.36, 0.44), (-0.24, 0.62), (-0.08, 0.65), (-0.08, 0.44)]),
        blob([(0.02, 0.44), (0.02, 0.65), (0.14, 0.6), (0.24, 0.44)])),
    ),
    "van": (
        blob([(-0.68, 0.12), (-0.7, 0.45), (-0.64, 0.76), (0.3, 0.78), (0.52, 0.5), (0.68, 0.42), (0.68, 0.12)]),
        (box(-0.56, 0.46, -0.32, 0.66), box(-0.22, 0.46, 0.02, 0.66),
        [(0.1, 0.46), (0.1, 0.66), (0.28, 0.66), (0.4, 0.46)]),
    ),
    "truck": (
        [(-0.68, 0.12), (-0.68, 0.46), (-0.02, 0.46), (-0.02, 0.76), (0.36, 0.76), (0.48, 0.46), (0.68, 0.42),
        (0.68, 0.12)],
        ([(0.07, 0.46), (0.07, 0.68), (0.3, 0.68), (0.38, 0.46)],),
    ),
}  # fmt: skip


def draw_boat(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a sailing boat or steamer that heads to the right."""
    hull, trim, sail, flag = (COLOURS[traits[k]] for k in ("hull", "trim", "sail", "flag"))
    if traits["rig"] == "steamer":
        pen.fill(flag, box(-0.02, 0.5, 0.16, 0.86))
        pen.fill(shade(flag, -0.5), box(-0.02, 0.78, 0.16, 0.86), ink=None)
        cabin = box(-0.3, 0.28, 0.3, 0.56)
        pen.fill(sail, cabin)
        pen.pattern(traits["pattern"], trim, cabin)
        pen.fill(_GLASS, *[oval(x, 0.43, 0.06) for x in (-0.17, 0.0, 0.17)])
    else:
        pen.stroke(INK, 0.05, [(0, 0.26), (0, 0.98)])
        pen.fill(flag, [(0, 0.99), (-0.17, 0.94), (0, 0.88)])
        if traits["rig"] == "sails":
            sheets = [[(0.05, 0.36), (0.42, 0.36), (0.05, 0.9)], [(-0.05, 0.36), (-0.34, 0.36), (-0.05, 0.82)]]
        else:
            belly = arc(0.3, 0.6, 0.11, 0.24, -90, 90, 10)
            sheets = [np.concatenate([belly, belly[::-1] - np.array([[0.62, 0.0]])])]
        pen.fill(sail, *sheets)
        pen.pattern(traits["pattern"], trim, sheets[0])
    body = [(-0.52, 0.3), (0.58, 0.3), (0.4, 0.03), (-0.4, 0.03)]
    pen.fill(hull, body)
    pen.fill(trim, [(-0.52, 0.3), (0.58, 0.3), (0.53, 0.22), (-0.48, 0.22)], ink=None)


def draw_rocket(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws a rocket that stands upright on its flame."""
    body, fins, nose = (COLOURS[traits[k]] for k in ("body", "fins", "nose"))
    w = 0.17 if traits["shape"] == "slim" else 0.23
    pen.fill((252, 170, 40), [(-0.1, 0.14), (0, -0.02 - 0.05 * pose.wave), (0.1, 0.14)], ink=None)
    pen.fill(
        fins,
        [(-0.8 * w, 0.44), (-w - 0.17, 0.06), (-0.6 * w, 0.16)],
        [(0.8 * w, 0.44), (w + 0.17, 0.06), (0.6 * w, 0.16)],
    )
    hull = blob(
        [(-0.6 * w, 0.12), (-w, 0.45), (-0.75 * w, 0.75), (0, 1.0), (0.75 * w, 0.75), (w, 0.45), (0.6 * w, 0.12)]
    )
    pen.fill(body, hull)
    pen.pattern(traits["pattern"], shade(body, -0.3), hull, 0.18)
    tip = [p for p in hull.tolist() if p[1] >= 0.76]
    pen.fill(nose, sorted(tip, key=lambda p: p[0]), ink=None)
    for y in (0.6, 0.36)[: int(traits["portholes"])]:
        pen.fill(_GLASS, oval(0, y, 0.085))
    pen.fill(shade(fins, -0.3), arc(0, 0.12, 0.6 * w, 0.05, 180, 360, 8))
