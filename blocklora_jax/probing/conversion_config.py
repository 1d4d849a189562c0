"""Settings of a conversion, and of the prompts on which layers are observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blocklora_jax.checks.bounds import check_number
from blocklora_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """Settings of a conversion.

    rank: rank of the result.
    erase_weight: lambda.
    ridge: share of the inputs' mean square, at least 1e-6.
    prompts: number of prompts with the trigger.
    random_prompts: number of prompts without it.
    steps: steps of the sampling runs in which the layers that read pictures are observed.
    chunk: prompts whose text is encoded at once.
    token_spread: distance of the negative tokens in random prompts from the class noun, in standard deviations of the
        token table.
    """

    rank: int = 16
    erase_weight: float = 1.0
    ridge: float = 1e-4
    prompts: int = 64
    random_prompts: int = 256
    steps: int = 4
    chunk: int = 16
    token_spread: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "prompts", "random_prompts", "steps", "chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("erase_weight", "ridge", "token_spread"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name, value in vars(self).items():
            check_number(name, value)
