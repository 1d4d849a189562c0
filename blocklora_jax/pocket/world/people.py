"""People: large portraits. Skin, hair, face and clothes distinguish individuals."""

from __future__ import annotations

from blocklora_jax.pocket.world import hair, hats
from blocklora_jax.pocket.world.pen import INK, Colour, Pen, arc, blob, box, mix, oval, shade
from blocklora_jax.pocket.world.pose import Pose
from blocklora_jax.pocket.world.traits import COLOURS, VIVID, Choices, Look

SKINS = {
    "porcelain": (255, 224, 204),
    "peach": (250, 200, 164),
    "honey": (230, 170, 118),
    "olive": (196, 146, 94),
    "sienna": (160, 102, 62),
    "umber": (124, 78, 52),
}
HAIRS = {
    "black": (46, 40, 50),
    "brown": (110, 66, 36),
    "blond": (246, 210, 104),
    "ginger": (226, 104, 34),
    "silver": (206, 208, 216),
    "blue": (60, 110, 220),
    "pink": (240, 110, 170),
    "green": (64, 164, 92),
}
EYES = {"brown": (78, 42, 22), "blue": (44, 120, 220), "green": (46, 150, 70), "black": (36, 32, 40)}
# half head width, head height/width, head centre, half shoulder width, squareness of the jaw
BUILDS = {
    "man": (0.235, 1.12, 0.555, 0.47, 2.7),
    "woman": (0.225, 1.12, 0.555, 0.37, 2.1),
    "boy": (0.27, 0.98, 0.52, 0.34, 2.3),
    "girl": (0.265, 0.98, 0.52, 0.31, 2.1),
}
_COMMON: Choices = {
    "skin": tuple(SKINS),
    "hair_colour": ("black", "brown", "brown", "blond", "blond", "ginger", "ginger", "silver", "blue", "pink", "green"),
    "eyes": tuple(EYES),
    "glasses": ("none", "none", "none", "round", "square", "shades"),
    "glasses_colour": ("black", "red", "blue", "green", "yellow"),
    "hat_colour": (*VIVID, "black", "white"),
    "top_colour": (*VIVID, "white", "black"),
    "trim_colour": (*VIVID, "white", "black"),
    "pattern": ("plain", "plain", "stripes", "bands", "dots", "checks"),
}
TRAITS: dict[str, Choices] = {
    "man": _COMMON
    | {
        "hair": ("short", "side", "spiky", "bald", "afro", "mohawk", "short", "side"),
        "hat": ("none", "none", "none", "none", "cap", "beanie", "brim", "top"),
        "beard": ("none", "none", "moustache", "goatee", "full"),
        "top": ("tee", "shirt", "suit", "hood"),
    },
    "woman": _COMMON
    | {
        "hair": ("long", "bob", "bun", "curly", "ponytail", "wavy", "long", "curly"),
        "hat": ("none", "none", "none", "none", "none", "beanie", "brim", "headband"),
        "lips": ("red", "pink", "purple"),
        "extra": ("none", "earrings", "necklace"),
        "top": ("tee", "straps", "suit", "shirt"),
    },
    "boy": _COMMON
    | {
        "hair": ("short", "bowl", "spiky", "curls", "side"),
        "hat": ("none", "none", "none", "cap", "beanie"),
        "top": ("tee", "dungarees", "hood"),
    },
    "girl": _COMMON
    | {
        "hair": ("pigtails", "braids", "bob", "puffs", "long", "pigtails"),
        "hat": ("none", "none", "none", "bow", "headband", "crown"),
        "top": ("tee", "dungarees", "straps"),
    },
}


def draw_person(pen: Pen, name: str, traits: Look, pose: Pose) -> None:
    """Draws the bust of a man, woman, boy or girl, one unit high, with its lower end at the origin."""
    half, tall, centre, shoulder, jaw = BUILDS[name]
    head = pen.at(0.025 * pose.lean, centre, half, turn=-5 * pose.lean)
    skin, hair_colour = SKINS[traits["skin"]], HAIRS[traits["hair_colour"]]
    hair.draw_back(head, traits["hair"], hair_colour)
    pen.fill(shade(skin, -0.12), box(-0.09, 0.2, 0.09, 0.4))
    _draw_clothes(pen, traits, skin, shoulder)
    head.fill(skin, oval(-1.0, -0.08, 0.2, 0.26), oval(1.0, -0.08, 0.2, 0.26))
    head.fill(skin, oval(0, 0, 1.0, tall, power=jaw))
    _draw_face(head, name, traits, pose, skin)
    if traits.get("beard", "none") != "none":
        _draw_beard(head, traits["beard"], hair_colour, tall, jaw)
    _draw_mouth(head, name, traits, pose)
    hair.draw_front(
        head, traits["hair"], hair_colour, covered=traits["hat"] not in ("none", "headband", "bow", "crown")
    )
    _draw_glasses(head, traits)
    if traits.get("extra") == "earrings":
        for x in (-1.08, 1.08):
            head.fill(COLOURS[traits["trim_colour"]], oval(x, -0.5, 0.2))
    hats.draw_hat(head, traits["hat"], COLOURS[traits["hat_colour"]], COLOURS[traits["trim_colour"]])


def _draw_clothes(pen: Pen, traits: Look, skin: Colour, s: float) -> None:
    colour, trim = COLOURS[traits["top_colour"]], COLOURS[traits["trim_colour"]]
    kind = traits["top"]
    body = blob(
        [(-s, -0.2), (-s, 0.06), (-0.78 * s, 0.2), (-0.13, 0.285), (0.13, 0.285), (0.78 * s, 0.2), (s, 0.06), (s, -0.2)]
    )
    pen.fill(skin if kind == "straps" else colour, body)
    if kind == "straps":
        dress = blob([(-0.75 * s, -0.2), (-0.7 * s, 0.1), (0, 0.12), (0.7 * s, 0.1), (0.75 * s, -0.2)])
        pen.stroke(colour, 0.06, [(-0.55 * s, 0.1), (-0.45 * s, 0.24)])
        pen.stroke(colour, 0.06, [(0.55 * s, 0.1), (0.45 * s, 0.24)])
        pen.fill(colour, dress)
        pen.pattern(traits["pattern"], trim, dress)
    else:
        pen.pattern(traits["pattern"], trim, body)
    if kind == "tee":
        pen.fill(skin, oval(0, 0.28, 0.13, 0.09))
    elif kind == "shirt":
        pen.fill(
            trim, [(-0.16, 0.3), (-0.19, 0.17), (0, 0.14), (0, 0.2)], [(0.16, 0.3), (0.19, 0.17), (0, 0.14), (0, 0.2)]
        )
    elif kind == "suit":
        pen.fill(COLOURS["white"], [(-0.14, 0.3), (0.14, 0.3), (0, 0.02)])
        pen.fill(trim, [(-0.05, 0.24), (0.05, 0.24), (0.055, 0.06), (0, -0.02), (-0.055, 0.06)])
    elif kind == "hood":
        pen.fill(shade(colour, -0.25), oval(0, 0.25, 0.23, 0.1))
        pen.fill(skin, oval(0, 0.28, 0.12, 0.07), ink=None)
    elif kind == "dungarees":
        pen.fill(trim, box(-0.15, -0.2, 0.15, 0.13))
        for x in (-0.14, 0.14):
            pen.stroke(trim, 0.06, [(x, 0.12), (1.2 * x, 0.26)])
    if traits.get("extra") == "necklace":
        pen.stroke(trim, 0.035, arc(0, 0.29, 0.13, 0.13, 190, 350, 10))
        pen.fill(trim, oval(0, 0.14, 0.04))


def _draw_face(head: Pen, name: str, traits: Look, pose: Pose, skin: Colour) -> None:
    child = name in ("boy", "girl")
    eye_y, rx, ry = (-0.1, 0.23, 0.29) if child else (0.02, 0.21, 0.22)
    for side in (-1, 1):
        x = 0.42 * side
        head.fill(COLOURS["white"], oval(x, eye_y, rx, ry), ink=None)
        head.fill(EYES[traits["eyes"]], oval(x + 0.07 * pose.gaze, eye_y - 0.01, 0.16, 0.19), ink=None)
        if name in ("woman", "girl"):
            head.stroke(INK, 0.09, arc(x, eye_y, rx + 0.06, ry + 0.05, 25, 155, 8))
        else:
            brow = eye_y + ry + 0.17
            head.stroke(shade(HAIRS[traits["hair_colour"]], -0.3), 0.13, [(x - 0.2, brow), (x + 0.2, brow)])
    if child:
        for x in (-0.66, 0.66):
            head.fill(_blush(skin), oval(x, -0.42, 0.18, 0.13), ink=None)
    head.stroke(shade(skin, -0.35), 0.1, [(0.0, -0.14), (0.09, -0.32), (-0.02, -0.34)])


def _blush(skin: Colour) -> Colour:
    return mix(skin, (244, 88, 96), 0.4)


def _draw_mouth(head: Pen, name: str, traits: Look, pose: Pose) -> None:
    y = -0.62
    lips = COLOURS[traits["lips"]] if name == "woman" else (150, 44, 50)
    if pose.mouth == "open":
        head.fill(lips, oval(0, y - 0.04, 0.24, 0.17), ink=None)
        head.fill((96, 24, 34), oval(0, y - 0.04, 0.15, 0.09), ink=None)
    elif pose.mouth == "smile":
        head.stroke(lips, 0.15 if name == "woman" else 0.11, arc(0, y + 0.14, 0.34, 0.22, 205, 335, 8))
    else:
        head.stroke(lips, 0.14 if name == "woman" else 0.1, [(-0.2, y), (0.2, y)])


def _draw_beard(head: Pen, kind: str, colour: Colour, tall: float, jaw: float) -> None:
    if kind == "full":
        edge = oval(0, 0, 1.0, tall * 1.06, power=jaw)
        lower = edge[edge[:, 1] < -0.02]
        inner = [(0.8, -0.2), (0.5, -0.4), (-0.5, -0.4), (-0.8, -0.2)]
        head.fill(colour, [*lower.tolist(), *inner], ink=None)
    if kind == "goatee":
        head.fill(colour, blob([(-0.3, -0.78), (0.3, -0.78), (0.26, -1.1), (0, -1.3), (-0.26, -1.1)]))
    if kind in ("moustache", "goatee", "full"):
        head.fill(
            colour,
            blob(
                [
                    (0, -0.36),
                    (0.3, -0.4),
                    (0.52, -0.58),
                    (0.2, -0.54),
                    (0, -0.5),
                    (-0.2, -0.54),
                    (-0.52, -0.58),
                    (-0.3, -0.4),
                ]
            ),
            ink=None if kind == "full" else INK,
        )


def _draw_glasses(head: Pen, traits: Look) -> None:
    kind, colour = traits["glasses"], COLOURS[traits["glasses_colour"]]
    if kind == "none":
        return
    for side in (-1, 1):
        x = 0.44 * side
        if kind == "shades":
            head.fill(shade(colour, -0.35), oval(x, -0.02, 0.37, 0.3, power=3), ink=INK)
            continue
        rim = oval(x, -0.02, 0.36, 0.36) if kind == "round" else oval(x, -0.02, 0.37, 0.3, power=6)
        head.stroke(colour, 0.15, [*rim.tolist(), rim[0].tolist()])
    head.stroke(INK if kind == "shades" else colour, 0.12, [(-0.1, 0.02), (0.1, 0.02)])
