"""DDIM without added noise."""

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
    """For each step: how to compute `x0` and the noise, where to clip, and signal and noise at the next step."""

    x0: ToX0
    clip: Values
    noise_from_latents: Values
    noise_from_output: Values
    next_signal: Values
    next_spread: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `leading` if the config names none.

    Source: diffusers' `DDIMScheduler` with `eta=0`, made from the same config. It has the same defaults:
    `set_alpha_to_one` and `clip_sample` are true, but configs of Stable Diffusion set them to false.
    """
    total = schedule.num_train_timesteps
    timesteps = np.round(spaced_timesteps(schedule, num_steps, default="leading", last=total)).astype(np.int64)
    power = schedule.alphas_cumprod
    final = np.float32(1) if schedule.set_alpha_to_one else power[0]
    following = timesteps - total // num_steps
    next_power = np.where(following >= 0, power[np.maximum(following, 0)], final)

    signal, spread = np.sqrt(power[timesteps]), np.sqrt(1 - power[timesteps])
    epsilon = schedule.prediction_type == "epsilon"
    limit = schedule.clip_sample_range if schedule.clip_sample else np.inf
    coefficients = Coefficients(
        x0=to_x0(schedule, signal, spread),
        clip=np.full_like(signal, limit),
        noise_from_latents=np.zeros_like(spread) if epsilon else spread,
        noise_from_output=np.ones_like(signal) if epsilon else signal,
        next_signal=np.sqrt(next_power),
        next_spread=np.sqrt(1 - next_power),
    )
    return Plan(timesteps.astype(np.float32), np.float32(1), coefficients, levels=NoiseLevels(signal, spread))


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """`x' = sqrt(a') x0 + sqrt(1 - a') noise`. Source: "Denoising diffusion implicit models", eq. 12."""
    x0 = jnp.clip(row.x0(state.latents, output), -row.clip, row.clip)
    noise = row.noise_from_latents * state.latents + row.noise_from_output * output
    return State(row.next_signal * x0 + row.next_spread * noise, state.previous_x0)


ddim = Sampler(init, scale, step)
