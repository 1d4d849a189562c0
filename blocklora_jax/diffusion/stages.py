"""Other U-Net parameters from a step of the sampling on, such as for concepts whose weight depends on the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blocklora_jax.errors import UserError


class Stage(NamedTuple):
    """From the share `share` of the steps on, 0 to 1, the U-Net has the parameters `unet`."""

    share: float
    unet: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Stage(from {self.share:g} of the steps on)"


def first_calls(stages: Sequence[Stage], steps: int, skipped: int = 0, calls: int = 1) -> tuple[int, ...]:
    """The number of the U-Net's first call in each stage. skipped: steps that are not taken. calls: in each step.

    Raises: UserError for shares outside 0..1, or that do not increase.

    >>> first_calls([Stage(0.3, {}), Stage(0.5, {})], 10)
    (3, 5)
    """
    shares = [stage.share for stage in stages]
    if any(not 0 <= share <= 1 for share in shares):
        raise UserError(f"the stages begin at {shares} of the steps: each must lie in 0..1")
    if sorted(set(shares)) != shares:
        raise UserError(f"the stages begin at {shares} of the steps: each must begin after the one before it")
    return tuple(max(0, round(share * steps) - skipped) * calls for share in shares)
