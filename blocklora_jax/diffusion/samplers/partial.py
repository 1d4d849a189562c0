"""The last steps of a plan, for pictures that are made from other pictures."""

from __future__ import annotations

import jax

from blocklora_jax.diffusion.samplers.protocol import Plan, Sampler
from blocklora_jax.errors import UserError


def first_step(num_steps: int, strength: float) -> int:
    """The first of `num_steps` steps to take, so that the share `strength` of them is taken.

    Raises: UserError if that leaves no step.

    Source: diffusers' `StableDiffusionImg2ImgPipeline.get_timesteps`.

    >>> first_step(30, 0.8)
    6
    """
    taken = int(num_steps * strength)
    if not taken:
        raise UserError(f"strength {strength:g} of {num_steps} steps leaves no step: give a larger one, or more steps")
    return num_steps - taken


def start_at(sampler: Sampler, plan: Plan, step: int) -> Plan:
    """The plan without its first `step` steps."""
    if not step:
        return plan
    rest = jax.tree.map(lambda x: x[step * sampler.calls :], plan._replace(init_noise_sigma=None))
    return rest._replace(init_noise_sigma=plan.init_noise_sigma, coefficients=sampler.restart(rest.coefficients))
