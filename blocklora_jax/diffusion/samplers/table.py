"""The samplers by name."""

from __future__ import annotations

from blocklora_jax.diffusion.samplers.ddim import ddim
from blocklora_jax.diffusion.samplers.dpmpp import dpmpp_2m
from blocklora_jax.diffusion.samplers.euler import euler
from blocklora_jax.diffusion.samplers.protocol import Plan, Sampler, State, start
from blocklora_jax.errors import UserError

__all__ = ["SAMPLERS", "Plan", "Sampler", "State", "ddim", "dpmpp_2m", "euler", "get_sampler", "start"]

SAMPLERS = {"ddim": ddim, "euler": euler, "dpmpp_2m": dpmpp_2m}


def get_sampler(name: str) -> Sampler:
    """The sampler called `name`.

    Raises:
        UserError: there is no such sampler. The message lists the known ones.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler {name!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
