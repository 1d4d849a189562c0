"""Euler steps along the noise level, in the variance-exploding form `x = x0 + sigma * noise`."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.protocol import Plan, Sampler, State, ToX0, Values, spaced_timesteps
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
    total = schedule.num_train_timesteps
    timesteps = spaced_timesteps(schedule, num_steps, default="linspace", last=total).astype(np.float32)
    sigmas = np.interp(timesteps, np.arange(total), schedule.sigmas).astype(np.float32)
    sigma, next_sigma = sigmas, np.append(sigmas[1:], np.float32(0))
    norm = np.sqrt(sigma**2 + 1)
    one = np.ones_like(sigma)
    epsilon = schedule.prediction_type == "epsilon"
    x0 = ToX0(one, sigma, one) if epsilon else ToX0(1 / norm**2, sigma / norm, one)
    leading = (schedule.timestep_spacing or "linspace") == "leading"
    largest = sigma.max()
    init_noise_sigma = np.sqrt(largest**2 + 1) if leading else largest
    return Plan(timesteps, init_noise_sigma, Coefficients(x0, sigma, next_sigma / sigma))


def scale(row: Coefficients, latents: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The U-Net's input: the latents scaled to unit variance."""
    return latents / jnp.sqrt(row.sigma**2 + 1)


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """`x' = x + (sigma' - sigma) (x - x0) / sigma`. Source: "Elucidating the design space", algorithm 1."""
    # Written as x0 plus the kept noise, so that no large numbers cancel when sigma falls from 10^4 to 0.
    x0 = row.x0(state.latents, output)
    return State(x0 + row.kept * (state.latents - x0), state.previous_x0)


euler = Sampler(init, scale, step)
