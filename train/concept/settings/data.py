"""How the concept's pictures become training data."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora_jax.command_line.options import check_options
from blocklora_jax.prompts.shares import Kind


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Pictures and captions of the concept."""

    kind: Kind = "object"
    """What sort of concept it is. This decides where in a prompt its token stands."""
    flip: bool = False
    """Also train on mirrored pictures."""
    crop: float = 1.0
    """Smallest side of random crops, as a share of the picture's shorter side. 1: only the centre square."""
    resolution: int | None = None
    """Side of a training picture, in pixels. If not given: the model's default size."""

    def __post_init__(self) -> None:
        check_options(self)
