"""DPM-Solver++ (2M): second order, multistep, midpoint."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.protocol import Plan, Sampler, State, ToX0, Values, spaced_timesteps, to_x0
from blocklora_jax.diffusion.schedule import Schedule


class Coefficients(NamedTuple):
    """For each step: how to compute `x0`, and weights of the latents, of `x0` and of its change since the last step."""

    x0: ToX0
    latents_by: Values
    x0_by: Values
    change_by: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `linspace` if the config names none.

    The first step has no step before it, and the last one ends at sigma 0, so both are of first order.

    Source: diffusers' `DPMSolverMultistepScheduler` (`dpmsolver++`, order 2, midpoint, final sigma zero).
    """
    last = _visitable_steps(schedule)
    timesteps = np.round(spaced_timesteps(schedule, num_steps, default="linspace", last=last, spare=1))
    sigma = schedule.sigmas[timesteps.astype(np.int64)]
    signal, spread = _variance_preserving(sigma)
    next_signal, next_spread = _variance_preserving(np.append(sigma[1:], np.float32(0)))
    with np.errstate(divide="ignore"):  # The noise after the last step is 0, and its log-SNR is infinite.
        level = np.log(signal) - np.log(spread)
        rise = np.log(next_signal) - np.log(next_spread) - level
    x0_by = -next_signal * (np.exp(-rise) - 1)
    coefficients = Coefficients(
        x0=to_x0(schedule, signal, spread),
        latents_by=next_spread / spread,
        x0_by=x0_by,
        change_by=_change_weights(x0_by, level, rise),
    )
    return Plan(timesteps.astype(np.float32), np.float32(1), coefficients)


def scale(row: Coefficients, latents: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The U-Net's input: the latents themselves."""
    return latents


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """`x' = s'/s x + w x0 + w / (2 r) (x0 - previous x0)`. Source: "DPM-Solver++", algorithm 2."""
    x0 = row.x0(state.latents, output)
    change = row.change_by * (x0 - state.previous_x0)
    return State(row.latents_by * state.latents + row.x0_by * x0 + change, x0)


def _visitable_steps(schedule: Schedule) -> int:
    """The number of training steps whose half log-SNR is at least `lambda_min_clipped`."""
    signal, spread = np.sqrt(schedule.alphas_cumprod), np.sqrt(1 - schedule.alphas_cumprod)
    with np.errstate(divide="ignore"):
        level = np.log(signal) - np.log(spread)
    return int((level >= schedule.lambda_min_clipped).sum())


def _variance_preserving(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal and noise with total power 1 and the ratio noise / signal = `sigma`."""
    signal = 1 / np.sqrt(sigma**2 + 1)
    return signal, sigma * signal


def _change_weights(x0_by: np.ndarray, level: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """Half the weight of `x0`, divided by the ratio of the last rise in log-SNR to this one; 0 in first-order steps."""
    weights = np.zeros_like(x0_by)
    weights[1:-1] = 0.5 * x0_by[1:-1] * rise[1:-1] / np.diff(level)[:-1]
    return weights


dpmpp_2m = Sampler(init, scale, step)
