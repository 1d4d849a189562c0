"""The pose of an individual, which differs between its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Pose:
    """gaze, lean: in -1..1. wave: position of a tail or arm, in 0..1. mouth: "smile", "open" or "calm"."""

    gaze: float = 0.0
    lean: float = 0.0
    wave: float = 0.5
    mouth: str = "smile"


def draw_pose(rng: np.random.Generator) -> Pose:
    """A random pose."""
    gaze, lean, wave, mouth = rng.random(4)
    return Pose(
        gaze=2 * gaze - 1, lean=2 * lean - 1, wave=float(wave), mouth=("smile", "smile", "open", "calm")[int(4 * mouth)]
    )
