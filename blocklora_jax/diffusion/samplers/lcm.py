"""LCM: for latent consistency models and LCM-LoRAs, which jump to the clean latents in each of a few steps."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler, State, ToX0, Values, scale, to_x0
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

DISTILLED_STEPS = 50  # of the sampler that consistency models were distilled from
_SIGMA_DATA, _TIMESTEP_SCALING = 0.5, 10.0


class Coefficients(NamedTuple):
    """For each step: how to compute `x0` and where to clip it, weights of `x0` and of the latents in the clean latents,
    and the signal at the next step.
    """

    x0: ToX0
    clip: Values
    x0_by: Values
    latents_by: Values
    next_signal: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` of the 50 steps of distillation. The schedule's spacing is not used.

    Raises: UserError for more steps than these.

    Source: diffusers' `LCMScheduler` with its defaults, made from the same config.
    """
    total = schedule.num_train_timesteps
    most = min(DISTILLED_STEPS, total)
    if not 1 <= num_steps <= most:
        raise UserError(f"{num_steps} sampling steps: the sampler lcm allows 1 to {most}; it is made for 1 to 8")
    distilled = np.arange(most, 0, -1) * (total // most) - 1
    timesteps = distilled[np.linspace(0, most, num_steps, endpoint=False).astype(np.int64)]
    power = schedule.alphas_cumprod[timesteps]
    scaled = timesteps.astype(np.float32) * np.float32(_TIMESTEP_SCALING)
    # The last step adds no noise.
    next_power = np.append(power[1:], np.float32(1))
    limit = schedule.clip_sample_range if schedule.clip_sample else np.inf
    coefficients = Coefficients(
        x0=to_x0(schedule, np.sqrt(power), np.sqrt(1 - power)),
        clip=np.full_like(power, limit),
        x0_by=scaled / np.sqrt(scaled**2 + np.float32(_SIGMA_DATA**2)),
        latents_by=np.float32(_SIGMA_DATA**2) / (scaled**2 + np.float32(_SIGMA_DATA**2)),
        next_signal=np.sqrt(next_power),
    )
    levels, noise_by = NoiseLevels(np.sqrt(power), np.sqrt(1 - power)), np.sqrt(1 - next_power)
    return Plan(timesteps.astype(np.float32), np.float32(1), coefficients, noise_by=noise_by, levels=levels)


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """The clean latents, with the signal of the next step. Source: "Latent consistency models", algorithm 3."""
    x0 = jnp.clip(row.x0(state.latents, output), -row.clip, row.clip)
    clean = row.x0_by * x0 + row.latents_by * state.latents
    return State(row.next_signal * clean, state.previous_x0)


lcm = Sampler(init, scale, step, spacings=(), adds_noise=True)
