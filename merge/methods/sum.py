"""The sum: every change is added to the weights. With blocks it is exact, and a concept can be removed again."""

from __future__ import annotations

from dataclasses import dataclass

from merge.compose import compose
from merge.methods.method import NoSettings, from_params


@dataclass(frozen=True, kw_only=True)
class SumSettings(NoSettings):
    """Settings of the sum."""

    allow_overlap: bool = False
    """Sum adapters that own the same weights (equal slots) instead of refusing them."""

    @property
    def shares_weights(self) -> bool:
        """Whether the user allows it. The sum is exact only if no two adapters own the same weights."""
        return self.allow_overlap


merge_by_sum = from_params(compose)
