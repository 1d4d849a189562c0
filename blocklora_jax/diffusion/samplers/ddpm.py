"""DDPM: the ancestral sampler of the model that was trained, with fresh noise in each step."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.protocol import (
    NoiseLevels,
    Plan,
    Sampler,
    State,
    ToX0,
    Values,
    scale,
    spaced_timesteps,
    to_x0,
)
from blocklora_jax.diffusion.schedule import Schedule


class Coefficients(NamedTuple):
    """For each step: how to compute `x0`, where to clip it, and weights of `x0` and of the latents."""

    x0: ToX0
    clip: Values
    x0_by: Values
    latents_by: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `leading` if the config names none.

    Source: diffusers' `DDPMScheduler` with the variance `fixed_small`, made from the same config.
    """
    total = schedule.num_train_timesteps
    timesteps = np.round(spaced_timesteps(schedule, num_steps, default="leading", last=total)).astype(np.int64)
    power = schedule.alphas_cumprod[timesteps]
    next_power = np.append(power[1:], np.float32(1))
    ratio = power / next_power
    beta = 1 - ratio
    variance = np.maximum((1 - next_power) / (1 - power) * beta, np.float32(1e-20))
    limit = schedule.clip_sample_range if schedule.clip_sample else np.inf
    coefficients = Coefficients(
        x0=to_x0(schedule, np.sqrt(power), np.sqrt(1 - power)),
        clip=np.full_like(power, limit),
        x0_by=np.sqrt(next_power) * beta / (1 - power),
        latents_by=np.sqrt(ratio) * (1 - next_power) / (1 - power),
    )
    noise_by = np.where(timesteps > 0, np.sqrt(variance), np.float32(0))
    levels = NoiseLevels(np.sqrt(power), np.sqrt(1 - power))
    return Plan(timesteps.astype(np.float32), np.float32(1), coefficients, noise_by=noise_by, levels=levels)


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """The mean of the next latents. Source: "Denoising diffusion probabilistic models", eq. 7."""
    x0 = jnp.clip(row.x0(state.latents, output), -row.clip, row.clip)
    return State(row.x0_by * x0 + row.latents_by * state.latents, state.previous_x0)


ddpm = Sampler(init, scale, step, adds_noise=True)
