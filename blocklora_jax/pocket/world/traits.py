"""Traits: the named parameters that define an individual, a particular scene or a particular style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Value = str | int | float | bool
Traits = tuple[tuple[str, Value], ...]
Choices = Mapping[str, tuple[Value, ...]]
# Traits in the form that the drawing functions read. They were checked against the choices.
Look = dict[str, Any]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 52, 48),
    "orange": (245, 138, 36),
    "yellow": (250, 208, 50),
    "lime": (148, 204, 58),
    "green": (42, 150, 78),
    "teal": (34, 166, 168),
    "sky": (98, 186, 240),
    "blue": (44, 92, 208),
    "purple": (132, 72, 190),
    "pink": (248, 136, 182),
    "brown": (134, 82, 48),
    "tan": (216, 172, 120),
    "cream": (250, 236, 208),
    "white": (250, 250, 250),
    "grey": (146, 150, 160),
    "black": (54, 52, 62),
}
VIVID = ("red", "orange", "yellow", "lime", "green", "teal", "sky", "blue", "purple", "pink")
PAINT = (*VIVID, "white", "grey", "black", "cream")


def draw_traits(choices: Choices, rng: np.random.Generator) -> Traits:
    """A value for every trait, drawn uniformly from its choices."""
    picks = rng.random(len(choices))
    return tuple((name, values[int(p * len(values))]) for (name, values), p in zip(choices.items(), picks, strict=True))


def check_traits(choices: Choices, traits: Traits, owner: str) -> None:
    """Raises ValueError if a trait or its value is not one of the choices."""
    for name, value in traits:
        if name not in choices:
            raise ValueError(f"{owner} has no trait {name!r}; it has {', '.join(choices)}")
        if value not in choices[name]:
            raise ValueError(f"{owner}: {name} cannot be {value!r}; it can be {sorted(map(str, set(choices[name])))}")
