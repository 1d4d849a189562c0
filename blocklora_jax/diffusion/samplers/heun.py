"""Heun: an Euler step, then the same step again with the mean of the slopes at its two ends."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.exploding import exploding_x0, make_levels, scale
from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler, State, ToX0, Values
from blocklora_jax.diffusion.samplers.spacing import SPACINGS
from blocklora_jax.diffusion.schedule import Schedule


class Coefficients(NamedTuple):
    """For each call of the U-Net: how to compute `x0`, and the rest of the step.

    sigma: the noise level of the latents. clip: the largest `x0`. corrects: whether the call corrects the step before.
    kept: the share of the noise kept at the next level. change: the next level minus this one; for a correction, of
    the step that it corrects.
    """

    x0: ToX0
    sigma: Values
    clip: Values
    corrects: Values
    kept: Values
    change: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps, which call the U-Net twice each, and the last one once.

    The spacing is `linspace`, with fractions, if the config names none.

    Source: diffusers' `HeunDiscreteScheduler`, made from the same config.
    """
    timesteps, sigma, next_sigma, init_noise_sigma = make_levels(schedule, num_steps)
    # The calls: predict 0, correct 0, predict 1, correct 1, …, predict n-1. A correction reads the step's end.
    call = np.arange(2 * num_steps - 1)
    at, step_of = (call + 1) // 2, call // 2
    change = next_sigma - sigma
    coefficients = Coefficients(
        x0=exploding_x0(schedule, sigma[at]),
        sigma=sigma[at],
        clip=np.full_like(sigma[at], schedule.clip_sample_range if schedule.clip_sample else np.inf),
        corrects=call % 2 == 1,
        kept=(next_sigma / sigma)[at],
        change=change[step_of],
    )
    levels = NoiseLevels(np.ones_like(sigma[at]), sigma[at])
    return Plan(timesteps[at], init_noise_sigma, coefficients, levels=levels)


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """`x' = x + (sigma' - sigma) (d + d') / 2`, with the slopes `d = (x - x0) / sigma` at both ends.

    Source: "Elucidating the design space", algorithm 1.
    """
    slope_before, before = state.memory
    x0 = jnp.clip(row.x0(state.latents, output), -row.clip, row.clip)
    slope = (state.latents - x0) / row.sigma
    predicted = x0 + row.kept * (state.latents - x0)
    corrected = before + row.change * (slope_before + slope) / 2
    latents = jnp.where(row.corrects, corrected, predicted)
    return State(latents, state.previous_x0, (slope, state.latents))


heun = Sampler(init, scale, step, memory=2, spacings=SPACINGS, calls=2)
