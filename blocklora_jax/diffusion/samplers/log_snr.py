"""What the solvers in the log-SNR share: DPM-Solver++ and UniPC."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from blocklora_jax.diffusion.samplers.protocol import spaced_timesteps
from blocklora_jax.diffusion.samplers.spacing import curved_sigmas, timesteps_at
from blocklora_jax.diffusion.schedule import Schedule


class Levels(NamedTuple):
    """Signal and noise of the steps `x = signal * x0 + spread * noise`, float32 [n] each.

    timesteps: for the U-Net. signal, spread: before each step; next_signal, next_spread: after it. The last step ends
    without noise. level: half the log-SNR `log(signal / spread)` before each step. rise: its increase in the step,
    which is infinite in the last one.
    """

    timesteps: np.ndarray
    signal: np.ndarray
    spread: np.ndarray
    next_signal: np.ndarray
    next_spread: np.ndarray
    level: np.ndarray
    rise: np.ndarray


def make_levels(schedule: Schedule, num_steps: int, last: int, round_curves: bool) -> Levels:
    """The levels of `num_steps` steps. The spacing is `linspace` if the config names none.

    last: number of training steps that may be used, for spacings of training steps. round_curves: round the training
    steps of the spacing "karras"; otherwise fractions are cut off, as they always are for "exponential".
    """
    timesteps = np.round(spaced_timesteps(schedule, num_steps, default="linspace", last=last, spare=1))
    sigma = schedule.sigmas[timesteps.astype(np.int64)]
    if curve := schedule.sigma_spacing:
        curved = curved_sigmas(curve, schedule.sigmas[-1].item(), schedule.sigmas[0].item(), num_steps)
        timesteps = timesteps_at(schedule, curved)
        timesteps = np.round(timesteps) if curve == "karras" and round_curves else np.trunc(timesteps)
        sigma = curved.astype(np.float32)
    signal, spread = _variance_preserving(sigma)
    next_signal, next_spread = _variance_preserving(np.append(sigma[1:], np.float32(0)))
    with np.errstate(divide="ignore"):  # The noise after the last step is 0, and its log-SNR is infinite.
        level = np.log(signal) - np.log(spread)
        rise = np.log(next_signal) - np.log(next_spread) - level
    return Levels(timesteps.astype(np.float32), signal, spread, next_signal, next_spread, level, rise)


def _variance_preserving(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal and noise with total power 1 and the ratio noise / signal = `sigma`."""
    signal = 1 / np.sqrt(sigma**2 + 1)
    return signal, sigma * signal
