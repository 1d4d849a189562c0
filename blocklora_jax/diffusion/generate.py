"""Token ids and noise to pictures: text encoder, guided sampling and decoder as one compiled function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from blocklora_jax.diffusion.protocol import Plan, Sampler, start
from blocklora_jax.diffusion.samplers import get_sampler
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError
from blocklora_jax.models.apply import apply_model

Params = dict[str, Any]
Ids = Int[Array | np.ndarray, "b t"]
Noise = Float[Array | np.ndarray, "b h w c"]
Denoiser = Callable[[Array, Array], Array]


class Models(NamedTuple):
    """The three Flax modules; hashable, so that compiled functions are found again by them."""

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module


def generate(
    models: Models,
    params: Params,
    schedule: Schedule,
    sampler_name: str,
    input_ids: Ids,
    negative_ids: Ids | None,
    latents: Noise,
    guidance_scale: float | int | None,
    num_steps: int,
) -> UInt8[Array, "b height width 3"]:
    """Pictures of prompts.

    Compiled once for each combination of models, schedule, sampler, number of steps, guidance on or off, and shapes;
    new parameters, prompts, noise or another guidance scale use the same program.

    Args:
        models: the modules; the dtype they compute in is theirs.
        params: `{"unet": …, "text_encoder": …, "vae": …}`; the token table may be longer than the config says.
        schedule: of the base model.
        sampler_name: a key of `SAMPLERS`.
        input_ids: int32 ids of the prompts.
        negative_ids: ids to be guided away from, of the empty prompt if there is none; not read without guidance.
        latents: unit normal noise, see `draw_latents`.
        guidance_scale: how far to go from the negative answer to the prompt's and beyond; `None` or 1 is the prompt's
            answer alone, at half the work.
        num_steps: calls of the U-Net.

    Returns:
        uint8 RGB pictures.

    Raises:
        UserError: an unknown sampler, a number of steps it cannot take, guidance without negative ids, or an id that
            the token table has no row for.

    Source: diffusers' `StableDiffusionPipeline`; "Classifier-free diffusion guidance", eq. 6.
    """
    guided = guidance_scale is not None and guidance_scale != 1
    if guided and negative_ids is None:
        raise UserError(f"guidance_scale {guidance_scale} needs negative_ids (of the empty prompt), or pass 1")
    negative_ids = negative_ids if guided else None
    models = with_token_rows(models, params)
    _check_ids(models, input_ids, negative_ids)
    program = compile_generate(models, schedule, sampler_name, num_steps, guided)
    scale = jnp.float32(guidance_scale if guided else 1)
    return program(params, input_ids, negative_ids, latents, scale)


@functools.lru_cache(maxsize=32)
def compile_generate(
    models: Models, schedule: Schedule, sampler_name: str, num_steps: int, guided: bool
) -> Callable[..., UInt8[Array, "b height width 3"]]:
    """The jitted `(params, input_ids, negative_ids, latents, guidance_scale) -> uint8 pictures`."""
    sampler = get_sampler(sampler_name)
    plan = sampler.init(schedule, num_steps)

    @jax.jit
    def program(
        params: Params, input_ids: Array, negative_ids: Array | None, latents: Array, guidance_scale: Array
    ) -> Array:
        ids = input_ids if negative_ids is None else jnp.concatenate([negative_ids, input_ids])
        states = apply_model(models.text_encoder, params["text_encoder"], ids)
        denoise = _denoiser(models.unet, params["unet"], states, guidance_scale if guided else None)
        clean = sample(sampler, plan, denoise, latents)
        return to_uint8(decode(models.vae, params["vae"], clean))

    return program


def sample(sampler: Sampler, plan: Plan, denoise: Denoiser, noise: Noise) -> Float[Array, "b h w c"]:
    """Clean latents: the plan's steps from unit normal `noise`; `denoise(latents, timestep)` is the U-Net's answer."""

    def body(state, inputs):
        timestep, row = inputs
        output = denoise(sampler.scale(row, state.latents), timestep)
        return sampler.step(row, state, output.astype(jnp.float32)), None

    state, _ = jax.lax.scan(body, start(plan, jnp.asarray(noise, jnp.float32)), (plan.timesteps, plan.coefficients))
    return state.latents


def decode(vae: nn.Module, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b height width 3"]:
    """Pictures, float32 in 0..1, of latents in the U-Net's scale."""
    pictures = apply_model(vae, params, latents / vae.config.scaling_factor, method="decode")
    return jnp.clip(pictures.astype(jnp.float32) / 2 + 0.5, 0, 1)


def to_uint8(pictures: Float[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """Pictures in 0..1 as bytes, rounded half to even as diffusers does."""
    return jnp.round(pictures * 255).astype(jnp.uint8)


def draw_latents(models: Models, key: jax.Array, batch: int, height: int, width: int) -> Float[Array, "b h w c"]:
    """Unit normal latents for pictures of `height` x `width` pixels; picture i is the same in every batch size.

    Raises:
        UserError: the decoder cannot give that size.
    """
    config = models.vae.config
    factor = config.downscale
    if height % factor or width % factor or min(height, width) < factor:
        raise UserError(f"height {height} and width {width} must be multiples of {factor}")
    shape = (height // factor, width // factor, config.latent_channels)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(batch))
    return jax.vmap(lambda one: jax.random.normal(one, shape, jnp.float32))(keys)


def with_token_rows(models: Models, params: Params) -> Models:
    """The models with a text encoder for as many tokens as the table in `params` has rows (concept tokens add some)."""
    rows = params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"].shape[0]
    config = models.text_encoder.config
    if rows == config.vocab_size:
        return models
    longer = models.text_encoder.clone(config=dataclasses.replace(config, vocab_size=rows))
    return models._replace(text_encoder=longer)


def _check_ids(models: Models, input_ids: Ids, negative_ids: Ids | None) -> None:
    """A gather past the end of the token table gives NaN, and so a black picture; say so before."""
    rows = models.text_encoder.config.vocab_size
    for ids in (input_ids, negative_ids):
        if ids is not None and int(np.max(ids)) >= rows:
            raise UserError(
                f"token id {int(np.max(ids))} is past the {rows} rows of the token table: "
                "pass params composed with the adapters that bring these tokens"
            )


def _denoiser(unet: nn.Module, params: Params, states: Array, guidance_scale: Array | None) -> Denoiser:
    """The U-Net's answer to the prompts, guided if there is a scale; both halves go through it in one batch."""

    def denoise(latents: Array, timestep: Array) -> Array:
        if guidance_scale is not None:
            latents = jnp.concatenate([latents, latents])
        timesteps = jnp.broadcast_to(timestep, latents.shape[:1])
        output = apply_model(unet, params, latents, timesteps, states)
        if guidance_scale is None:
            return output
        negative, positive = jnp.split(output.astype(jnp.float32), 2)
        return negative + guidance_scale * (positive - negative)

    return denoise
