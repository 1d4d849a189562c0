"""Where the steps lie: at evenly spaced training steps, or at noise levels that follow a curve."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from blocklora_jax.diffusion.schedule import Schedule

TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
SIGMA_SPACINGS = ("karras", "exponential")
SPACINGS = (*TIMESTEP_SPACINGS, *SIGMA_SPACINGS)
_RHO = 7.0


def curved_sigmas(curve: str, largest: float, smallest: float, count: int) -> Float[np.ndarray, " count"]:
    """Falling noise levels from `largest` to `smallest`, float64.

    curve: "karras" (the 7th roots are evenly spaced, so that most steps are at little noise) or "exponential" (the
    logarithms are).

    Source: "Elucidating the design space", eq. 5; diffusers' `_convert_to_karras` and `_convert_to_exponential`.

    >>> curved_sigmas("exponential", 16.0, 1.0, 3).round(6).tolist()
    [16.0, 4.0, 1.0]
    """
    if curve == "exponential":
        return np.exp(np.linspace(math.log(largest), math.log(smallest), count))
    first, last = largest ** (1 / _RHO), smallest ** (1 / _RHO)
    return (first + np.linspace(0, 1, count) * (last - first)) ** _RHO


def timesteps_at(schedule: Schedule, sigmas: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The training steps, with fractions, at which the noise levels are `sigmas`; float64.

    Their logarithm is interpolated. Levels outside the schedule's give its first or last step.

    Source: diffusers' `_sigma_to_t`, with the same order of operations: some schedulers cut the fractions off.
    """
    table, levels = np.log(schedule.sigmas), np.log(np.maximum(sigmas, 1e-10))
    below = np.clip(np.searchsorted(table.astype(np.float64), levels, side="right") - 1, 0, len(table) - 2)
    low, high = table[below], table[below + 1]
    share = np.clip((low - levels) / (low - high), 0, 1)
    return (1 - share) * below + share * (below + 1)
