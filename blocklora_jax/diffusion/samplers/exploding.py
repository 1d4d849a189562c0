"""What samplers in the variance-exploding form `x = x0 + sigma * noise` share: Euler, Euler ancestral and Heun."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.protocol import ToX0, spaced_timesteps
from blocklora_jax.diffusion.samplers.spacing import curved_sigmas, timesteps_at
from blocklora_jax.diffusion.schedule import Schedule


class Levels(NamedTuple):
    """The noise levels of the steps.

    timesteps: float32 [n]. sigma, next_sigma: before and after each step, float32 [n]; the last one ends at 0.
    init_noise_sigma: standard deviation of the first latents.
    """

    timesteps: np.ndarray
    sigma: np.ndarray
    next_sigma: np.ndarray
    init_noise_sigma: np.float32


def make_levels(schedule: Schedule, num_steps: int) -> Levels:
    """The levels of `num_steps` steps. The spacing is `linspace`, with fractions, if the config names none.

    Source: diffusers' `EulerDiscreteScheduler.set_timesteps`.
    """
    total = schedule.num_train_timesteps
    timesteps = spaced_timesteps(schedule, num_steps, default="linspace", last=total).astype(np.float32)
    sigmas = np.interp(timesteps, np.arange(total), schedule.sigmas)
    if schedule.sigma_spacing:
        sigmas = curved_sigmas(schedule.sigma_spacing, sigmas[0].item(), sigmas[-1].item(), num_steps)
        timesteps = timesteps_at(schedule, sigmas).astype(np.float32)
    sigma = sigmas.astype(np.float32)
    leading = (schedule.timestep_spacing or "linspace") == "leading"
    largest = sigma.max()
    init_noise_sigma = np.sqrt(largest**2 + 1) if leading else largest
    return Levels(timesteps, sigma, np.append(sigma[1:], np.float32(0)), init_noise_sigma)


def exploding_x0(schedule: Schedule, sigma: np.ndarray) -> ToX0:
    """How to compute `x0` from the U-Net's output for `x = x0 + sigma * noise`."""
    norm, one = np.sqrt(sigma**2 + 1), np.ones_like(sigma)
    epsilon = schedule.prediction_type == "epsilon"
    return ToX0(one, sigma, one) if epsilon else ToX0(1 / norm**2, sigma / norm, one)


def scale(row: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The U-Net's input: the latents scaled to unit variance. row: with the field `sigma`."""
    return latents / jnp.sqrt(row.sigma**2 + 1)
