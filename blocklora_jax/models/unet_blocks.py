"""Down, middle and up blocks of the U-Net, each with or without attention to the text."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from blocklora_jax.models.attention import Transformer2DModel
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D

Feature = Float[Array, "b _ _ _"]
Time = Float[Array, "b k"]
Context = Float[Array, "b t d"]


class _Block(nn.Module):
    """The base class of the blocks: residual blocks, each followed by attention or not.

    Attributes:
        out_channels: width of the block.
        num_heads: heads of its attentions; None: the block has no attention.
        norm_num_groups, epsilon: arguments of its norms.
        depth: transformer blocks of each attention.
        linear_projection: see `Transformer2DModel`.
        dtype: type of the computation.
        form: see `attend`.
        remat: recompute the inside of each residual block and transformer block in the backward pass.
    """

    out_channels: int
    num_heads: int | None
    norm_num_groups: int
    epsilon: float
    depth: int = 1
    linear_projection: bool = False
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"
    remat: bool = False

    def _resnet(self, index: int) -> nn.Module:
        block = nn.remat(ResnetBlock2D) if self.remat else ResnetBlock2D
        sizes = self.out_channels, self.norm_num_groups, self.epsilon, self.dtype
        return block(*sizes, not self.remat, name=f"resnets_{index}")

    def _attention(self, index: int) -> Transformer2DModel:
        assert self.num_heads is not None
        return Transformer2DModel(
            self.out_channels,
            self.num_heads,
            self.norm_num_groups,
            self.depth,
            self.linear_projection,
            self.dtype,
            self.form,
            self.remat,
            name=f"attentions_{index}",
        )

    def _layer(self, index: int, x: Feature, time: Time, context: Context) -> Feature:
        x = self._resnet(index)(x, time)
        return x if self.num_heads is None else self._attention(index)(x, context)


class DownBlock2D(_Block):
    """diffusers' `CrossAttnDownBlock2D`; with `num_heads` None, its `DownBlock2D`.

    Gives the block's output and one skip connection per layer and downsampler.
    """

    num_layers: int = 2
    downsample: bool = True
    downsample_padding: int = 1

    @nn.compact
    def __call__(self, x: Feature, time: Time, context: Context) -> tuple[Feature, tuple[Feature, ...]]:
        skips = []
        for i in range(self.num_layers):
            x = self._layer(i, x, time, context)
            skips.append(x)
        if self.downsample:
            x = Downsample2D(self.out_channels, self.downsample_padding, self.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, tuple(skips)


class UpBlock2D(_Block):
    """diffusers' `CrossAttnUpBlock2D`; with `num_heads` None, its `UpBlock2D`. Reads `skips` from last to first."""

    upsample_size: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: Feature, skips: tuple[Feature, ...], time: Time, context: Context) -> Feature:
        for i, skip in enumerate(reversed(skips)):
            x = self._layer(i, jnp.concatenate([x, skip], axis=-1), time, context)
        if self.upsample_size is not None:
            x = Upsample2D(self.out_channels, self.upsample_size, self.dtype, name="upsamplers_0")(x)
        return x


class MidBlock2D(_Block):
    """diffusers' `UNetMidBlock2DCrossAttn`: residual block, attention, residual block."""

    @nn.compact
    def __call__(self, x: Feature, time: Time, context: Context) -> Feature:
        x = self._layer(0, x, time, context)
        return self._resnet(1)(x, time)
