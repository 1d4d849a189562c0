"""The loop of a sampler: from noise to clean latents, perhaps with other weights from some steps on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.denoiser import Denoiser, Noise
from blocklora_jax.diffusion.originals import OriginalLatents
from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler, State, start
from blocklora_jax.errors import UserError


def sample(
    sampler: Sampler,
    plan: Plan,
    denoise: Denoiser,
    noise: Noise,
    fresh_noise: Callable[[Array], Array] | None = None,
    original: OriginalLatents | None = None,
    from_noise: bool = True,
    stages: Sequence[tuple[int, Denoiser]] = (),
) -> Float[Array, "b h w c"]:
    """Clean latents, made from unit normal `noise` by the plan's steps.

    denoise: `(latents, timestep) -> output` runs the U-Net. fresh_noise: `index of the step -> unit normal noise`, for
    samplers that add noise in each step. original: latents of pictures; where their mask is 0, they are kept.
    from_noise: begin with noise alone, not with the original and noise. stages: from these calls of the U-Net on,
    another `denoise`.

    Raises: UserError if a sampler that adds noise gets no `fresh_noise`, or the plan has no levels for the original.
    """
    if plan.noise_by is not None and fresh_noise is None:
        raise UserError("this sampler adds noise in each step: pass noise_keys, one for each picture")
    if original is not None and plan.levels is None:
        raise UserError("this sampler does not make pictures from other pictures: choose another one")
    indices = None if plan.noise_by is None else np.arange(len(plan.timesteps))
    noise = jnp.asarray(noise, jnp.float32)
    mask = None if original is None else original.mask

    def body(denoise: Denoiser, state: State, inputs: Any) -> tuple[State, None]:
        timestep, row, noise_by, index, after = inputs
        output = denoise(sampler.scale(row, state.latents), timestep)
        state = sampler.step(row, state, output.astype(jnp.float32))
        if fresh_noise is not None and noise_by is not None:
            state = state._replace(latents=state.latents + noise_by * fresh_noise(index))
        if original is not None and mask is not None:
            kept = after.signal * original.latents + after.spread * noise
            state = state._replace(latents=(1 - mask) * kept + mask * state.latents)
        return state, None

    first = start(plan, noise, sampler.memory)
    if original is not None and plan.levels is not None and not from_noise:
        first = first._replace(latents=plan.levels.signal[0] * original.latents + plan.levels.spread[0] * noise)
    after = None if mask is None or plan.levels is None else _following(plan.levels)
    rows, state = (plan.timesteps, plan.coefficients, plan.noise_by, indices, after), first
    for begin, end, denoiser in _spans(len(plan.timesteps), denoise, stages):
        part = rows if not stages else jax.tree.map(lambda x, begin=begin, end=end: x[begin:end], rows)
        state, _ = jax.lax.scan(functools.partial(body, denoiser), state, part)
    return state.latents


def _spans(
    count: int, denoise: Denoiser, stages: Sequence[tuple[int, Denoiser]]
) -> Iterator[tuple[int, int, Denoiser]]:
    """(first call, end, denoiser) of each stage that has calls."""
    begins = [0, *(min(begin, count) for begin, _ in stages), count]
    for begin, end, denoiser in zip(begins, begins[1:], [denoise, *(d for _, d in stages)], strict=False):
        if begin < end:
            yield begin, end, denoiser


def _following(levels: NoiseLevels) -> NoiseLevels:
    """The levels after each call; the last one leaves no noise."""
    return NoiseLevels(*(np.append(x[1:], np.float32(end)) for x, end in zip(levels, (1, 0), strict=True)))
