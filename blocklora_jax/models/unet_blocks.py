"""Down, middle and up blocks of the U-Net, each with or without attention to the text."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from blocklora_jax.models.attention import Transformer2DModel
from blocklora_jax.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D

Feature = Float[Array, "b _ _ _"]
Time = Float[Array, "b k"]
Context = Float[Array, "b t d"]


class DownBlock2D(nn.Module):
    """`CrossAttnDownBlock2D`, or, with `num_heads` None, `DownBlock2D` of diffusers.

    Gives the block's output and one skip connection per layer and downsampler.
    """

    out_channels: int
    num_layers: int
    num_heads: int | None
    norm_num_groups: int
    epsilon: float
    downsample: bool
    downsample_padding: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, time: Time, context: Context) -> tuple[Feature, tuple[Feature, ...]]:
        skips = []
        for i in range(self.num_layers):
            resnet = ResnetBlock2D(
                self.out_channels, self.norm_num_groups, self.epsilon, self.dtype, name=f"resnets_{i}"
            )
            x = resnet(x, time)
            if self.num_heads is not None:
                attention = Transformer2DModel(
                    self.out_channels, self.num_heads, self.norm_num_groups, dtype=self.dtype, name=f"attentions_{i}"
                )
                x = attention(x, context)
            skips.append(x)
        if self.downsample:
            x = Downsample2D(self.out_channels, self.downsample_padding, self.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, tuple(skips)


class UpBlock2D(nn.Module):
    """`CrossAttnUpBlock2D`, or, with `num_heads` None, `UpBlock2D` of diffusers; reads `skips` last first."""

    out_channels: int
    num_heads: int | None
    norm_num_groups: int
    epsilon: float
    upsample_size: tuple[int, int] | None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, skips: tuple[Feature, ...], time: Time, context: Context) -> Feature:
        for i, skip in enumerate(reversed(skips)):
            x = jnp.concatenate([x, skip], axis=-1)
            resnet = ResnetBlock2D(
                self.out_channels, self.norm_num_groups, self.epsilon, self.dtype, name=f"resnets_{i}"
            )
            x = resnet(x, time)
            if self.num_heads is not None:
                attention = Transformer2DModel(
                    self.out_channels, self.num_heads, self.norm_num_groups, dtype=self.dtype, name=f"attentions_{i}"
                )
                x = attention(x, context)
        if self.upsample_size is not None:
            x = Upsample2D(self.out_channels, self.upsample_size, self.dtype, name="upsamplers_0")(x)
        return x


class MidBlock2D(nn.Module):
    """`UNetMidBlock2DCrossAttn` of diffusers: residual block, attention, residual block."""

    channels: int
    num_heads: int
    norm_num_groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, time: Time, context: Context) -> Feature:
        first, last = (
            ResnetBlock2D(self.channels, self.norm_num_groups, self.epsilon, self.dtype, name=f"resnets_{i}")
            for i in range(2)
        )
        attention = Transformer2DModel(
            self.channels, self.num_heads, self.norm_num_groups, dtype=self.dtype, name="attentions_0"
        )
        return last(attention(first(x, time), context), time)
