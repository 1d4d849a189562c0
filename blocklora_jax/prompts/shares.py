"""What random prompts contain, and how often. Imports no NumPy, so that options and `--help` load quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.errors import UserError

# What a concept is. This decides where in a prompt it is named.
Kind = Literal["person", "object", "scene", "style"]


@dataclass(frozen=True, kw_only=True)
class RandomPromptShares:
    """How often a random prompt has each part, as a share in 0..1.

    own_class: the subject is the concept's own class. negative: a negative token stands before the subject.
    second: a second subject joins. scene: a scene is named. empty: the empty prompt (classifier-free guidance).
    """

    own_class: float = 0.4
    negative: float = 0.5
    second: float = 0.2
    scene: float = 0.8
    empty: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UserError(f"random prompt share {name}={value} must lie in 0..1")
