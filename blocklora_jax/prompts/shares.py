"""The parts of random prompts and how often they occur. Does not import NumPy, so that `--help` loads quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.errors import UserError

# The kinds of concepts. The kind decides the place of the trigger in a prompt.
Kind = Literal["person", "object", "scene", "style"]


@dataclass(frozen=True, kw_only=True)
class RandomPromptShares:
    """How often a random prompt has each part, as a share in 0..1.

    own_class: the subject is the concept's class noun.
    negative: a negative token comes before the subject.
    second: there is a second subject.
    scene: there is a scene.
    empty: the prompt is empty (for classifier-free guidance).
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
