"""The settings of sampling that people choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are made from noise.

    sampler: a name in `samplers.table.SAMPLERS`. steps: sampling steps. spacing: see `samplers.spacing`; None: as the
    model's config says. guidance_scale: 1 switches guidance off. guidance_rescale: 0..1, how far guidance keeps the
    contrast. clip_skip: last layers of the text encoder that are left out. strength: share of the steps that is taken
    if pictures are made from other pictures.
    """

    sampler: str = "dpmpp_2m"
    steps: int = 30
    spacing: str | None = None
    guidance_scale: float = 5.0
    guidance_rescale: float = 0.0
    clip_skip: int = 0
    strength: float = 0.8
