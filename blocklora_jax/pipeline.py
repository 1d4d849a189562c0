"""Stable Diffusion as one object: load, generate, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.checkpoints.diffusers import Checkpoint, load_folder, save_folder
from blocklora_jax.diffusion.generate import Models, draw_latents, generate
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL
from blocklora_jax.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True)
class StableDiffusion:
    """A Stable Diffusion 1.x model: Flax modules, parameters, tokenizer and noise schedule.

    params: {"unet": …, "text_encoder": …, "vae": …}, fp32 nested dicts under the names of Flax Stable Diffusion.

    >>> sd = StableDiffusion.from_pretrained("pocket")
    >>> sd.generate(["a photo of a dog on a beach"], steps=2).shape
    (1, 64, 64, 3)
    """

    checkpoint: Checkpoint
    models: Models
    schedule: Schedule
    tokenizer: Tokenizer
    params: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        variant: str | None = None,
        revision: str | None = None,
        dtype: Any = jnp.float32,
        remat: bool = False,
    ) -> StableDiffusion:
        """Load "pocket", a Diffusers folder, or a hub id.

        dtype: what the models compute in (float32 or bfloat16); parameters stay fp32. remat: recompute the U-Net's
        blocks in the backward pass, for training in less memory.

        Raises: UserError, see `checkpoints.diffusers.load_folder`.
        """
        checkpoint = load_folder(name, variant=variant, revision=revision)
        configs = checkpoint.configs
        models = Models(
            UNet2DConditionModel(configs["unet"], dtype=dtype, remat=remat),
            AutoencoderKL(configs["vae"], dtype=dtype),
            CLIPTextModel(configs["text_encoder"], dtype=dtype),
        )
        schedule = Schedule.from_json(dict(checkpoint.scheduler), f"{name}/scheduler")
        params = jax.tree.map(jnp.asarray, checkpoint.params)
        return cls(
            checkpoint=checkpoint,
            models=models,
            schedule=schedule,
            tokenizer=checkpoint.make_tokenizer(),
            params=params,
        )

    @property
    def image_size(self) -> int:
        """The model's own height and width, in pixels."""
        size = self.models.unet.config.sample_size or 64
        return (size if isinstance(size, int) else size[0]) * self.models.vae.config.downscale

    def generate(
        self,
        prompts: Sequence[str],
        *,
        params: Mapping[str, Any] | None = None,
        adapters: Sequence[Adapter] = (),
        negative_prompts: Sequence[str] | None = None,
        seed: int = 0,
        steps: int = 30,
        guidance_scale: float = 5.0,
        sampler: str = "dpmpp_2m",
        height: int | None = None,
        width: int | None = None,
        latents: Any = None,
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Pictures of `prompts`, uint8 RGB [b, h, w, 3].

        Args:
            params: what `merge.compose` gave; the base model if None.
            adapters: those that `params` were composed of, in the same order: they name the prompts' tokens.
            negative_prompts: one a prompt, or one for all; the empty prompt if None.
            seed: picture i depends on (seed, i) only, whatever the batch size.
            guidance_scale: 1 switches guidance off.
            sampler: "ddim", "euler" or "dpmpp_2m".
            latents: unit normal noise [b, h/8, w/8, 4] instead of the seed's.

        Raises: UserError for a prompt that is too long or a size that the model cannot make.
        """
        for name, value in (("prompts", prompts), ("negative_prompts", negative_prompts)):
            if isinstance(value, str):
                raise UserError(f"{name} is a list of prompts, not one string: write [prompt]")
        if not prompts:
            raise UserError("there is no prompt to make a picture of")
        tokens = token_counts(adapters)
        negatives = list(negative_prompts or [""])
        if len(negatives) not in (1, len(prompts)):
            raise UserError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one for each, or one for all"
            )
        negatives = negatives * (len(prompts) // len(negatives))
        if latents is None:
            size = self.image_size
            height, width = (size if side is None else side for side in (height, width))
            latents = draw_latents(self.models, jax.random.key(seed), len(prompts), height, width)
        channels = self.models.vae.config.latent_channels
        if len(latents.shape) != 4 or (latents.shape[0], latents.shape[3]) != (len(prompts), channels):
            shape = list(latents.shape)
            raise UserError(f"latents {shape} must be [b, h, w, {channels}], one for each of {len(prompts)} prompts")
        return np.asarray(
            generate(
                self.models,
                dict(self.params if params is None else params),
                self.schedule,
                sampler,
                self.tokenizer.encode(prompts, tokens),
                self.tokenizer.encode(negatives, tokens),
                latents,
                guidance_scale,
                steps,
            )
        )

    def save(
        self,
        path: str | Path,
        *,
        params: Mapping[str, Any] | None = None,
        adapters: Sequence[Adapter] = (),
        dtype: str = "float32",
    ) -> None:
        """Write a Diffusers folder that PyTorch opens; arguments as in `generate`. Raises UserError if it cannot."""
        checkpoint = replace(self.checkpoint, params=self.params if params is None else params)
        save_folder(path, checkpoint, tokens=token_counts(adapters), dtype=dtype)
