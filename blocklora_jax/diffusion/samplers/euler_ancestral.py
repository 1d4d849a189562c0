"""Euler ancestral: each Euler step goes to less noise than the next level has, and fresh noise makes up the rest."""

from __future__ import annotations

import numpy as np

from blocklora_jax.diffusion.samplers import euler
from blocklora_jax.diffusion.samplers.exploding import exploding_x0, make_levels, scale
from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler
from blocklora_jax.diffusion.samplers.spacing import SPACINGS
from blocklora_jax.diffusion.schedule import Schedule


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `linspace`, with fractions, if the config names none.

    Source: diffusers' `EulerAncestralDiscreteScheduler`, made from the same config.
    """
    timesteps, sigma, next_sigma, init_noise_sigma = make_levels(schedule, num_steps)
    fresh = np.sqrt(next_sigma**2 * (sigma**2 - next_sigma**2) / sigma**2)
    # The step goes down to sqrt(sigma'^2 - fresh^2) = sigma'^2 / sigma. As a difference it would lose all digits.
    kept = (next_sigma / sigma) ** 2
    coefficients = euler.Coefficients(exploding_x0(schedule, sigma), sigma, kept)
    levels = NoiseLevels(np.ones_like(sigma), sigma)
    return Plan(timesteps, init_noise_sigma, coefficients, noise_by=fresh, levels=levels)


euler_a = Sampler(init, scale, euler.step, spacings=SPACINGS, adds_noise=True)
