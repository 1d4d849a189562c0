"""The U-Net with a text, as a function of latents and timestep, with or without classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.regions import RegionText, apply_regional
from blocklora_jax.diffusion.text import Ids, add_sizes, encode_prompt, join_prompts
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.prompts.chunks import PromptIds

Params = dict[str, Any]
Noise = Float[Array | np.ndarray, "b h w c"]
Denoiser = Callable[[Array, Array], Array]


def make_denoiser(
    unet: nn.Module,
    params: Params,
    text: TextOutput,
    size_ids: Array | None,
    guide: Callable[[Array], Array] | None,
    local: RegionText | None = None,
) -> Denoiser:
    """A function for the U-Net's output, guided if there is `guide`. Both halves of guidance are one batch."""
    if size_ids is not None and guide is not None:
        size_ids = jnp.concatenate([size_ids, size_ids])
    added = add_sizes(text, size_ids)

    def denoise(latents: Array, timestep: Array) -> Array:
        if guide is not None:
            latents = jnp.concatenate([latents, latents])
        timesteps = jnp.broadcast_to(timestep, latents.shape[:1])
        inputs = (latents, timesteps, text.states, *([added] if added else []))
        if local is None:
            output = apply_model(unet, params, *inputs)
        else:
            output = apply_regional(unet, params, local, *inputs)
        return output if guide is None else guide(output)

    return denoise


def guided_text(
    models: Models, params: Params, input_ids: Ids | PromptIds, negative_ids: Ids | PromptIds | None
) -> TextOutput:
    """The text states of the negative prompts, then those of the prompts, as one batch."""
    if negative_ids is not None:
        return encode_prompt(models, params, join_prompts(negative_ids, input_ids))
    text = encode_prompt(models, params, input_ids)
    return jax.tree.map(lambda x: jnp.concatenate([jnp.zeros_like(x), x]), text)


def make_guide(scale: Array, rescale: Array | None) -> Callable[[Array], Array]:
    """A function that turns the outputs for the negative prompts and the prompts, one batch, into guided outputs."""

    def guide(output: Array) -> Array:
        negative, positive = jnp.split(output.astype(jnp.float32), 2)
        guided = negative + scale * (positive - negative)
        return guided if rescale is None else _rescale_guidance(guided, positive, rescale)

    return guide


def _rescale_guidance(guided: Noise, positive: Noise, rescale: Array) -> Array:
    """`guided`, of which the share `rescale` gets the standard deviation that `positive` has in each picture.

    Source: "Common diffusion noise schedules and sample steps are flawed", section 3.4; diffusers' `rescale_noise_cfg`.
    """
    wanted, present = (x.std((1, 2, 3), keepdims=True, ddof=1) for x in (positive, guided))
    return rescale * guided * (wanted / present) + (1 - rescale) * guided
