"""The sum: every concept's change is added to the weights. On blocks it is exact, and a concept can be removed again."""

from __future__ import annotations

from dataclasses import dataclass

from merge.compose import compose
from merge.methods.method import NoSettings, from_params


@dataclass(frozen=True, kw_only=True)
class SumSettings(NoSettings):
    """Settings of the sum."""

    allow_overlap: bool = False
    """Sum adapters that own the same weights (equal slots) instead of refusing them."""


merge_by_sum = from_params(compose)
