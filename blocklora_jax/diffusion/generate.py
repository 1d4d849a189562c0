"""Turns token ids and noise into pictures: text encoder, guided sampling and decoder in one compiled function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from blocklora_jax.checks.bounds import BOUNDS, check_number
from blocklora_jax.diffusion.denoiser import Noise, Params, guided_text, make_denoiser, make_guide
from blocklora_jax.diffusion.explain_pictures import explain_pictures
from blocklora_jax.diffusion.models import Models, with_token_rows
from blocklora_jax.diffusion.originals import Original, encode_original
from blocklora_jax.diffusion.regions import RegionIds, encode_regions
from blocklora_jax.diffusion.sample import sample
from blocklora_jax.diffusion.samplers.partial import first_step, start_at
from blocklora_jax.diffusion.samplers.table import get_sampler
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.stages import Stage, first_calls
from blocklora_jax.diffusion.text import Ids, encode_prompt, ids_of, make_size_ids
from blocklora_jax.errors import UserError
from blocklora_jax.models.apply import apply_model
from blocklora_jax.prompts.chunks import PromptIds

Keys = Any  # typed random keys [b]


def generate(
    models: Models,
    params: Params,
    schedule: Schedule,
    sampler_name: str,
    input_ids: Ids | PromptIds,
    negative_ids: Ids | PromptIds | None,
    latents: Noise,
    guidance_scale: float | int | None,
    num_steps: int,
    size_ids: Float[Array | np.ndarray, "b 6"] | None = None,
    regions: RegionIds | None = None,
    *,
    guidance_rescale: float | int = 0.0,
    noise_keys: Keys | None = None,
    original: Original | None = None,
    strength: float | int = 1.0,
    stages: Sequence[Stage] = (),
) -> UInt8[Array, "b height width 3"]:
    """Pictures of prompts.

    Compiled once for each combination of models, schedule, sampler, number of steps, guidance on or off, and shapes.
    Other parameters, prompts, noise, sizes or another guidance scale use the same program.

    Args:
        models: the modules. They determine the dtype of the computation.
        params: `{"unet": …, "text_encoder": …, "vae": …}`, for SDXL `"text_encoder_2"` too. Token tables may be longer
            than the configs say.
        schedule: the base model's noise schedule.
        sampler_name: a key of `SAMPLERS`.
        input_ids: int32 ids of the prompts [b, t], for SDXL [b, 2, t]; or chunks with weights, see `encode_prompts`.
        negative_ids: ids of the negative prompts, or of the empty prompt if there are none. Not read without guidance.
            For SDXL it may be None, which means text states of zeros, with which SDXL was trained.
        latents: unit normal noise, see `draw_latents`.
        guidance_scale: scale of classifier-free guidance. `None` or 1 means no guidance, which takes half the work.
        num_steps: sampling steps, each with one call of the U-Net; Heun needs two, except in the last step.
        size_ids: only for SDXL, see `diffusion.text.make_size_ids`. None: the pictures' own size.
        regions: prompts for parts of the pictures.
        guidance_rescale: 0..1, how far guidance keeps the contrast of the U-Net's output for the prompt alone.
        noise_keys: for samplers that add noise in each step: one random key for each picture, see `draw_keys`.
        original: pictures to begin with instead of noise alone, perhaps only parts of which are drawn anew.
        strength: with `original`: the share of the steps that is taken, above 0 up to 1.
        stages: other U-Net parameters from some steps on.

    Returns:
        uint8 RGB pictures.

    Raises:
        UserError: an unknown sampler, a number of steps that it does not support, guidance without negative ids, an id
            without a row in the token table, or pictures with NaN or infinity, which would be black.

    Source: diffusers' `StableDiffusionPipeline`; "Classifier-free diffusion guidance", eq. 6.
    """
    if guidance_scale is not None:
        check_number("guidance_scale", guidance_scale)
    check_number("guidance_rescale", guidance_rescale)
    guided = guidance_scale is not None and guidance_scale != 1
    if guided and negative_ids is None and models.text_encoder_2 is None:
        raise UserError(f"guidance_scale {guidance_scale} needs negative_ids (of the empty prompt), or pass 1")
    negative_ids = negative_ids if guided else None
    models = with_token_rows(models, params)
    _check_ids(models, input_ids, negative_ids, regions.ids if regions else None)
    if models.text_encoder_2 is not None and size_ids is None:
        height, width = (side * models.vae.config.downscale for side in latents.shape[1:3])
        size_ids = make_size_ids(height, width, len(latents))
    skipped = 0
    if original is not None:
        check_number("strength", strength)
        skipped = first_step(num_steps, strength)
    firsts = first_calls(stages, num_steps, skipped, get_sampler(sampler_name).calls) if stages else ()
    program = compile_generate(models, schedule, sampler_name, num_steps, guided, skipped, firsts)
    scale = jnp.float32(guidance_scale if guided else 1)
    rescale = jnp.float32(guidance_rescale) if guided and guidance_rescale else None
    pictures, finite = program(
        params, input_ids, negative_ids, latents, scale, size_ids, regions, rescale, noise_keys, original,
        tuple(stage.unet for stage in stages),
    )  # fmt: skip
    if not (wrong := np.flatnonzero(~np.asarray(finite))).size:
        return pictures
    raise UserError(explain_pictures(models, params, latents, guidance_scale, wrong))


@functools.lru_cache(maxsize=32)
def compile_generate(
    models: Models,
    schedule: Schedule,
    sampler_name: str,
    num_steps: int,
    guided: bool,
    skipped: int = 0,
    firsts: tuple[int, ...] = (),
) -> Callable[..., tuple[UInt8[Array, "b height width 3"], Bool[Array, " b"]]]:
    """The jitted function `(params, input_ids, negative_ids, latents, guidance_scale, …)`; see `generate`.

    skipped: number of first steps that are not taken. firsts: the first call of the U-Net in each stage.

    It gives uint8 pictures, and for each picture whether all its numbers were finite.
    """
    sampler = get_sampler(sampler_name)
    plan = start_at(sampler, sampler.init(schedule, num_steps), skipped)

    @jax.jit
    def program(
        params: Params,
        input_ids: Ids | PromptIds,
        negative_ids: Ids | PromptIds | None,
        latents: Array,
        guidance_scale: Array,
        size_ids: Array | None = None,
        regions: RegionIds | None = None,
        guidance_rescale: Array | None = None,
        noise_keys: Keys | None = None,
        original: Original | None = None,
        later: tuple[Params, ...] = (),
    ) -> tuple[Array, Array]:
        text = (
            guided_text(models, params, input_ids, negative_ids) if guided else encode_prompt(models, params, input_ids)
        )
        local = encode_regions(models, params, regions) if regions else None
        guide = make_guide(guidance_scale, guidance_rescale) if guided else None
        denoise, *others = (
            make_denoiser(models.unet, unet, text, size_ids, guide, local) for unet in (params["unet"], *later)
        )
        fresh = None if noise_keys is None else _fresh_noise(noise_keys, latents.shape[1:])
        kept = None if original is None else encode_original(models.vae, params["vae"], original)
        # Where all steps are taken, the parts to draw anew begin as noise alone.
        from_noise = original is None or (original.mask is not None and not skipped)
        stages = tuple(zip(firsts, others, strict=True))
        clean = sample(sampler, plan, denoise, latents, fresh, kept, from_noise, stages)
        pictures = decode(models.vae, params["vae"], clean)
        # NaN passes through the decoder, and infinity becomes NaN there.
        return to_uint8(pictures), jnp.isfinite(pictures).all((1, 2, 3)) & jnp.isfinite(clean).all((1, 2, 3))

    return program


def decode(vae: nn.Module, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b height width 3"]:
    """Pictures, float32 in 0..1, from latents in the U-Net's scale."""
    pictures = apply_model(vae, params, latents / vae.config.scaling_factor, method="decode")
    return jnp.clip(pictures.astype(jnp.float32) / 2 + 0.5, 0, 1)


def to_uint8(pictures: Float[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """Pictures in 0..1 as bytes, rounded half to even like in diffusers."""
    return jnp.round(pictures * 255).astype(jnp.uint8)


def draw_latents(
    models: Models, key: jax.Array, batch: int | Sequence[int], height: int, width: int
) -> Float[Array, "b h w c"]:
    """Unit normal latents for pictures of `height` x `width` pixels. Picture i does not depend on the batch size.

    batch: the number of pictures, or their indices.

    Raises:
        UserError: the decoder cannot make that size.
    """
    config = models.vae.config
    factor = config.downscale
    for name, side in (("height", height), ("width", width)):
        # Checked before memory is allocated. Sizes that are too small are refused below.
        check_number(name, side, bound=BOUNDS[name]._replace(least=-BOUNDS[name].most))
    if height % factor or width % factor or min(height, width) < factor:
        raise UserError(f"height {height} and width {width} must be multiples of {factor}")
    shape = (height // factor, width // factor, config.latent_channels)
    return jax.vmap(lambda one: jax.random.normal(one, shape, jnp.float32))(draw_keys(key, batch))


def draw_keys(key: jax.Array, batch: int | Sequence[int]) -> Keys:
    """A random key for each picture, for the noise in its steps. Key i does not depend on the batch size.

    batch: the number of pictures, or their indices.
    """
    indices = jnp.arange(batch) if isinstance(batch, int) else jnp.asarray(batch)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(indices)


def _check_ids(models: Models, *all_ids: Any) -> None:
    """Refuses ids past the end of the token table, which would give NaN and so a black picture."""
    for name, tower in models.text_encoders.items():
        rows = tower.config.vocab_size
        for ids in all_ids:
            if ids is not None and (largest := int(np.max(ids_of(ids, name)))) >= rows:
                raise UserError(
                    f"token id {largest} is past the {rows} rows of the token table: "
                    "pass params composed with the adapters that have these tokens"
                )


def _fresh_noise(keys: Keys, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """A function that gives unit normal noise [b, *shape] for the index of a step."""

    def draw(index: Array) -> Array:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32))(keys)

    return draw
