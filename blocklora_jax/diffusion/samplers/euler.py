"""Euler steps along the noise level, in the variance-exploding form `x = x0 + sigma * noise`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.exploding import exploding_x0, make_levels, scale
from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler, State, ToX0, Values
from blocklora_jax.diffusion.samplers.spacing import SPACINGS
from blocklora_jax.diffusion.schedule import Schedule


class Coefficients(NamedTuple):
    """For each step: how to compute `x0`, the noise level, and the share of the noise kept at the next level."""

    x0: ToX0
    sigma: Values
    kept: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `linspace`, with fractions, if the config names none.

    Source: diffusers' `EulerDiscreteScheduler` without churn, made from the same config.
    """
    timesteps, sigma, next_sigma, init_noise_sigma = make_levels(schedule, num_steps)
    coefficients = Coefficients(exploding_x0(schedule, sigma), sigma, next_sigma / sigma)
    return Plan(timesteps, init_noise_sigma, coefficients, levels=NoiseLevels(np.ones_like(sigma), sigma))


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """`x' = x + (sigma' - sigma) (x - x0) / sigma`. Source: "Elucidating the design space", algorithm 1."""
    # Written as x0 plus the kept noise, so that no large numbers cancel when sigma falls from 10^4 to 0.
    x0 = row.x0(state.latents, output)
    return State(x0 + row.kept * (state.latents - x0), state.previous_x0)


euler = Sampler(init, scale, step, spacings=SPACINGS)
