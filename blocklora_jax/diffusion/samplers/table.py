"""The samplers by name."""

from __future__ import annotations

from dataclasses import replace

from blocklora_jax.diffusion.samplers.ddim import ddim
from blocklora_jax.diffusion.samplers.ddpm import ddpm
from blocklora_jax.diffusion.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde
from blocklora_jax.diffusion.samplers.euler import euler
from blocklora_jax.diffusion.samplers.euler_ancestral import euler_a
from blocklora_jax.diffusion.samplers.heun import heun
from blocklora_jax.diffusion.samplers.lcm import lcm
from blocklora_jax.diffusion.samplers.protocol import Plan, Sampler, State, start
from blocklora_jax.diffusion.samplers.spacing import SIGMA_SPACINGS, SPACINGS
from blocklora_jax.diffusion.samplers.unipc import unipc
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

__all__ = [
    "SAMPLERS", "SPACINGS", "Plan", "Sampler", "State", "adds_noise", "ddim",
    "dpmpp_2m", "euler", "get_sampler", "start", "with_spacing",
]  # fmt: skip

SAMPLERS = {
    "ddim": ddim,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
    "euler_a": euler_a,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
    "heun": heun,
    "lcm": lcm,
    "ddpm": ddpm,
}


def get_sampler(name: str) -> Sampler:
    """The sampler called `name`.

    Raises:
        UserError: there is no such sampler. The message lists the known ones.
    """
    if name not in SAMPLERS:
        plain, _, spacing = str(name).rpartition("_")
        hint = f"; for {name} give {plain} with the spacing {spacing}" if spacing in SIGMA_SPACINGS else ""
        raise UserError(f"sampler {name!r} is unknown; choose one of {', '.join(SAMPLERS)}{hint}")
    return SAMPLERS[name]


def adds_noise(name: str) -> bool:
    """Whether the sampler called `name` adds fresh noise in each step. Raises: see `get_sampler`."""
    return get_sampler(name).adds_noise


def with_spacing(schedule: Schedule, sampler_name: str, spacing: str | None) -> Schedule:
    """The schedule with another spacing of the sampling steps. None leaves it to the schedule and the sampler.

    Raises:
        UserError: an unknown sampler or spacing, or a spacing that the sampler does not have.
    """
    sampler = get_sampler(sampler_name)
    if spacing is None:
        return schedule
    if spacing not in SPACINGS:
        raise UserError(f"spacing {spacing!r} is unknown; choose one of {', '.join(SPACINGS)}")
    if spacing not in sampler.spacings:
        known = f"one of {', '.join(sampler.spacings)}" if sampler.spacings else "no spacing: it has its own"
        raise UserError(f"the sampler {sampler_name} does not have the spacing {spacing}; give {known}")
    if spacing in SIGMA_SPACINGS:
        return replace(schedule, sigma_spacing=spacing)
    return replace(schedule, timestep_spacing=spacing)
