"""The image autoencoder: pixels to latents and back."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from blocklora_jax.models.attention import AttentionBlock
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.resnet import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D, conv1x1, conv3x3

Feature = Float[Array, "b _ _ _"]
EPSILON = 1e-6


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    channels: int
    norm_num_groups: int
    attention: bool
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"

    @nn.compact
    def __call__(self, x: Feature) -> Feature:
        x = ResnetBlock2D(self.channels, self.norm_num_groups, EPSILON, self.dtype, name="resnets_0")(x)
        if self.attention:
            x = AttentionBlock(self.channels, self.norm_num_groups, self.dtype, self.form, name="attentions_0")(x)
        return ResnetBlock2D(self.channels, self.norm_num_groups, EPSILON, self.dtype, name="resnets_1")(x)


class CodecBlock(nn.Module):
    """diffusers' `DownEncoderBlock2D` or `UpDecoderBlock2D`: residual blocks, then resampling.

    resample: "down", "up", or None for no resampling.
    """

    channels: int
    num_layers: int
    norm_num_groups: int
    resample: str | None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Feature) -> Feature:
        for i in range(self.num_layers):
            x = ResnetBlock2D(self.channels, self.norm_num_groups, EPSILON, self.dtype, name=f"resnets_{i}")(x)
        if self.resample == "down":
            x = Downsample2D(self.channels, padding=0, dtype=self.dtype, name="downsamplers_0")(x)
        if self.resample == "up":
            x = Upsample2D(self.channels, dtype=self.dtype, name="upsamplers_0")(x)
        return x


class Encoder(nn.Module):
    """Turns images into the moments of the latents, before `quant_conv`."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"

    @nn.compact
    def __call__(self, x: Feature) -> Feature:
        config, groups = self.config, self.config.norm_num_groups
        widths = config.block_out_channels
        x = conv3x3(widths[0], self.dtype, "conv_in")(x)
        for i, width in enumerate(widths):
            resample = "down" if i < len(widths) - 1 else None
            name = f"down_blocks_{i}"
            x = CodecBlock(width, config.layers_per_block, groups, resample, self.dtype, name=name)(x)
        x = MidBlock(widths[-1], groups, config.mid_block_add_attention, self.dtype, self.form, name="mid_block")(x)
        x = GroupNorm(groups, EPSILON, self.dtype, silu=True, name="conv_norm_out")(x)
        return conv3x3(2 * config.latent_channels, self.dtype, "conv_out")(x)


class Decoder(nn.Module):
    """Turns latents into images, after `post_quant_conv`."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"

    @nn.compact
    def __call__(self, x: Feature) -> Feature:
        config, groups = self.config, self.config.norm_num_groups
        widths = config.block_out_channels[::-1]
        x = conv3x3(widths[0], self.dtype, "conv_in")(x)
        x = MidBlock(widths[0], groups, config.mid_block_add_attention, self.dtype, self.form, name="mid_block")(x)
        for i, width in enumerate(widths):
            resample = "up" if i < len(widths) - 1 else None
            name = f"up_blocks_{i}"
            x = CodecBlock(width, config.layers_per_block + 1, groups, resample, self.dtype, name=name)(x)
        x = GroupNorm(groups, EPSILON, self.dtype, silu=True, name="conv_norm_out")(x)
        return conv3x3(config.out_channels, self.dtype, "conv_out")(x)


class AutoencoderKL(nn.Module):
    """Encoder and decoder; call `apply(..., method="encode")` or `"decode"`. Source: diffusers `AutoencoderKL`.

    Latents are as the network gives them: multiply by `config.scaling_factor` for the denoiser, divide before `decode`.
    """

    config: VAEConfig
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"

    def setup(self) -> None:
        config = self.config
        self.encoder = Encoder(config, self.dtype, self.form)
        self.decoder = Decoder(config, self.dtype, self.form)
        if config.use_quant_conv:
            self.quant_conv = conv1x1(2 * config.latent_channels, self.dtype)
        if config.use_post_quant_conv:
            self.post_quant_conv = conv1x1(config.latent_channels, self.dtype)

    def encode(self, images: Float[Array, "b h w c"]) -> tuple[Float[Array, "b i j d"], Float[Array, "b i j d"]]:
        """Mean and log variance (clipped to -30..20, as in diffusers), fp32, of the latents of `images` in -1..1."""
        moments = self.encoder(images)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[Array, "b i j d"]) -> Float[Array, "b h w c"]:
        """Images, about -1..1 and not clipped, of `latents`."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Reconstruction from the mean; touches every parameter, so `init` makes them all."""
        return self.decode(self.encode(images)[0])
