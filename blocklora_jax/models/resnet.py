"""Convolutional parts shared by the U-Net and the VAE: group norm, residual block, down- and upsampling."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from blocklora_jax.models.convolution import convolve
from blocklora_jax.models.linear import flat_dot_general
from blocklora_jax.models.precision import at_least_float32
from blocklora_jax.models.recompute import is_large


class GroupNorm(nn.Module):
    """Group normalisation over (h, w, c / groups), computed in fp32. silu: apply silu to the result.

    The sums run over space first, then over the few channels of a group. XLA vectorises this on CPU; it does not
    vectorise a reduction over a short last axis.

    recompute: the backward pass computes all of it again from a large input, which is cheap beside the convolutions,
    and needs half of the memory. Within a layer that is recomputed as a whole, this would only take time.

    Source: `torch.nn.GroupNorm`.
    """

    num_groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32
    silu: bool = False
    recompute: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        recompute = self.recompute and is_large(x.size)
        normalise = jax.checkpoint(self._normalise) if recompute else self._normalise
        return normalise(x, jnp.asarray(scale), jnp.asarray(bias))

    def _normalise(self, x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        scale, bias = (jnp.expand_dims(p, tuple(range(x.ndim - 1))) for p in (scale, bias))
        x = at_least_float32(x)
        centred = x - self._group_mean(x)
        # Two passes: mean(x^2) - mean(x)^2 loses digits where a channel's mean is far from zero.
        factor = scale * jax.lax.rsqrt(self._group_mean(jnp.square(centred)) + self.epsilon)
        normed = (centred * factor + bias).astype(self.dtype)
        return nn.silu(normed) if self.silu else normed

    def _group_mean(self, x: jax.Array) -> jax.Array:
        batch, *space, channels = x.shape
        by_channel = x.mean(axis=tuple(range(1, x.ndim - 1)))
        by_group = by_channel.reshape(batch, self.num_groups, -1).mean(axis=-1)
        spread = jnp.repeat(by_group, channels // self.num_groups, axis=-1)
        return spread.reshape(batch, *(1 for _ in space), channels)


def conv3x3(features: int, dtype: DTypeLike, name: str, stride: int = 1, padding: int = 1) -> nn.Conv:
    """A 3x3 convolution with torch's symmetric padding (linen's "SAME" differs when the stride is two)."""
    return nn.Conv(
        features, (3, 3), strides=stride, padding=padding, dtype=dtype, conv_general_dilated=convolve, name=name
    )


def conv1x1(features: int, dtype: DTypeLike, name: str | None = None) -> nn.Conv:
    """A 1x1 convolution computed as a matrix product: on CPU its kernel's gradient takes half the time."""
    return nn.Conv(features, (1, 1), dtype=dtype, conv_general_dilated=_multiply_pixels, name=name)


def _multiply_pixels(x: jax.Array, kernel: jax.Array, *_: object, **__: object) -> jax.Array:
    return flat_dot_general(x, kernel[0, 0], None)


class ResnetBlock2D(nn.Module):
    """norm, silu, conv, plus time, norm, silu, conv, plus the input. Source: diffusers `ResnetBlock2D`.

    recompute: see `GroupNorm`.
    """

    out_channels: int
    norm_num_groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32
    recompute: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], time: Float[Array, "b k"] | None = None) -> Float[Array, "b h w d"]:
        norm = partial(GroupNorm, self.norm_num_groups, self.epsilon, self.dtype, silu=True, recompute=self.recompute)
        h = norm(name="norm1")(x)
        h = conv3x3(self.out_channels, self.dtype, "conv1")(h)
        if time is not None:
            shift = nn.Dense(self.out_channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
            h = h + shift[:, None, None, :]
        h = norm(name="norm2")(h)
        h = conv3x3(self.out_channels, self.dtype, "conv2")(h)
        if x.shape[-1] != self.out_channels:
            x = conv1x1(self.out_channels, self.dtype, "conv_shortcut")(x)
        return x + h


class Downsample2D(nn.Module):
    """Halve both sides with a strided convolution; `padding` 0 adds one row of zeros below and one column right."""

    channels: int
    padding: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        if self.padding == 0:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return conv3x3(self.channels, self.dtype, "conv", stride=2, padding=self.padding)(x)


class Upsample2D(nn.Module):
    """Enlarge to `size` (default: twice both sides) by nearest neighbour, then convolve."""

    channels: int
    size: tuple[int, int] | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        height, width = self.size or (2 * x.shape[1], 2 * x.shape[2])
        return conv3x3(self.channels, self.dtype, "conv")(resize_nearest(x, height, width))


def resize_nearest(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b i j c"]:
    """Nearest neighbour: output row i is input row floor(i * h / height). Source: `torch.nn.functional.interpolate`."""
    h, w = x.shape[1:3]
    if (height, width) == (2 * h, 2 * w):
        # Not a gather: its backward pass is a scatter, four times slower on CPU.
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    rows = jnp.arange(height) * h // height
    columns = jnp.arange(width) * w // width
    return x[:, rows[:, None], columns[None, :]]
