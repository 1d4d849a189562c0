"""The three stages: CLIP, the autoencoder and the U-Net. Their losses are those of the training by steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float as FloatArray

from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.clip_vision import CLIPVisionModel, VisionConfig
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL
from blocklora_jax.pocket import architecture
from train.base.autoencoder import autoencoder_loss
from train.base.clip import clip_loss, init_clip
from train.base.config import BaseConfig
from train.base.denoiser import denoiser_loss, init_denoiser
from train.base.initial import silence_branches
from train.base.timed.schedules import cosine, hold_then_linear
from train.base.timed.stage import Stage

PICTURE = (architecture.IMAGE_SIZE, architecture.IMAGE_SIZE, 3)
# The decay of the U-Net's moving average.
EMA_DECAY = 0.9995


@dataclass(frozen=True)
class Networks:
    """The configs of all networks, and the type in which they compute while they train."""

    text: TextConfig
    vision: VisionConfig
    vae: VAEConfig
    unet: UNetConfig
    dtype: Any

    @cached_property
    def latents(self) -> tuple[int, int, int]:
        """The shape of a picture's latents."""
        side = architecture.IMAGE_SIZE // self.vae.downscale
        return side, side, self.vae.latent_channels

    @cached_property
    def towers(self) -> tuple[CLIPTextModel, CLIPVisionModel]:
        """The two encoders of CLIP."""
        return CLIPTextModel(self.text, dtype=self.dtype), CLIPVisionModel(self.vision, dtype=self.dtype)

    @cached_property
    def denoiser(self) -> UNet2DConditionModel:
        """The U-Net."""
        return UNet2DConditionModel(self.unet, dtype=self.dtype)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """The autoencoder."""
        return AutoencoderKL(self.vae, dtype=self.dtype)


def clip_stage(networks: Networks, config: BaseConfig, steps: int) -> Stage:
    """CLIP. Rows: images uint8, ids. steps: of one call."""

    def loss(params: Any, frozen: Any, rows: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        images, ids = rows
        value, hit = clip_loss(*networks.towers, params, as_float(images), ids)
        return value, {"loss": value, "caption_top1": hit}

    return Stage(
        name="clip", loss=loss, batch=config.clip_batch, learning_rate=config.clip_learning_rate, decay=cosine,
        seed=config.seed, steps=steps, weight_decay=1e-4,
    )  # fmt: skip


def autoencoder_stage(networks: Networks, config: BaseConfig, steps: int) -> Stage:
    """The autoencoder. Rows: images uint8."""

    def loss(params: Any, frozen: Any, rows: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        (images,) = rows
        value, metrics = autoencoder_loss(networks.autoencoder, params, as_float(images), key)
        return value, {"loss": value, **metrics}

    return Stage(
        name="vae", loss=loss, batch=config.vae_batch, learning_rate=config.vae_learning_rate, decay=cosine,
        seed=config.seed + 1, steps=steps,
    )  # fmt: skip


def denoiser_stage(networks: Networks, config: BaseConfig, empty_ids: np.ndarray, steps: int) -> Stage:
    """The U-Net. Rows: latents before scaling, ids, subjects. frozen: text encoder, and the scale of the latents."""
    schedule = Schedule.from_json(architecture.SCHEDULER, "pocket scheduler")
    text_model = networks.towers[0]

    def loss(params: Any, frozen: Any, rows: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        text_params, scale = frozen
        latents, ids, subjects = rows
        batch = latents.astype(jnp.float32) * scale, ids, subjects
        return denoiser_loss(networks.denoiser, text_model, schedule, params, text_params, empty_ids, batch, key)

    return Stage(
        name="unet", loss=loss, batch=config.unet_batch, learning_rate=config.unet_learning_rate,
        decay=hold_then_linear, seed=config.seed + 2, steps=steps, weight_decay=1e-4, average=EMA_DECAY,
    )  # fmt: skip


def initial_params(networks: Networks, seed: int) -> dict[str, Callable[[], Any]]:
    """Functions for the parameters before training, by stage. They are drawn as those of the training by steps."""
    picture, tokens = jnp.zeros((1, *PICTURE)), architecture.MAX_TOKENS
    init_vae = lambda: networks.autoencoder.init(jax.random.key(seed), picture)["params"]
    states = tokens, networks.text.hidden_size
    return {
        "clip": lambda: init_clip(*networks.towers, tokens, PICTURE, seed),
        "vae": lambda: silence_branches(init_vae()),
        "unet": lambda: init_denoiser(networks.denoiser, networks.latents, states, seed),
    }


def as_float(images: Array) -> FloatArray[Array, "b h w 3"]:
    """uint8 to fp32 in -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1.0
