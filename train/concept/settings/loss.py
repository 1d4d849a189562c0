"""The diffusion loss: how noise levels are weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The diffusion loss on the concept's pictures."""

    weighting: Literal["none", "min_snr", "picture"] = "picture"
    """Weight of each noise level: none, min_snr (arXiv 2303.09556), or picture: the error of the predicted clean
    picture times min(snr, gamma) + 1."""
    snr_gamma: float = 5.0
    """gamma, the highest signal-to-noise ratio that counts."""
    noise_offset: float = 0.0
    """Share of the noise that is the same over the whole picture. It helps with very dark and very bright pictures."""

    def __post_init__(self) -> None:
        check_options(self)
