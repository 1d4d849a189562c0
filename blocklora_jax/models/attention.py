"""Attention parts of the U-Net and the VAE.

Every projection is a plain `nn.Dense` or 1x1 `nn.Conv`, so that one interceptor can adapt any of them by its path.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from blocklora_jax.models.attend import attend
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.models.linear import Dense
from blocklora_jax.models.recompute import is_large
from blocklora_jax.models.resnet import GroupNorm, conv1x1


class Attention(nn.Module):
    """Self-attention, or cross-attention to `context`. form: see `attend`. Source: diffusers `Attention`."""

    channels: int
    num_heads: int
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], context: Float[Array, "b s d"] | None = None) -> Float[Array, "b t c"]:
        context = x if context is None else context
        query = Dense(self.channels, use_bias=False, dtype=self.dtype, name="to_q")(x)
        key = Dense(self.channels, use_bias=False, dtype=self.dtype, name="to_k")(context)
        value = Dense(self.channels, use_bias=False, dtype=self.dtype, name="to_v")(context)
        out = attend(query, key, value, self.num_heads, form=self.form)
        return Dense(self.channels, dtype=self.dtype, name="to_out_0")(out)


class GEGLU(nn.Module):
    """x W * gelu(x V), both halves from one projection; the exact (erf) gelu. recompute: see `GroupNorm`."""

    features: int
    dtype: DTypeLike = jnp.float32
    recompute: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t d"]:
        hidden, gate = jnp.split(Dense(2 * self.features, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        recompute = self.recompute and is_large(hidden.size)
        return (jax.checkpoint(_gated) if recompute else _gated)(hidden, gate)


def _gated(hidden: jax.Array, gate: jax.Array) -> jax.Array:
    return hidden * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """A gated layer of four times the width, and a projection back to the width. recompute: see `GEGLU`."""

    channels: int
    dtype: DTypeLike = jnp.float32
    recompute: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        hidden = GEGLU(4 * self.channels, self.dtype, self.recompute, name="net_0")(x)
        return Dense(self.channels, dtype=self.dtype, name="net_2")(hidden)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward, each after a layer norm and added to its input.

    form: see `attend`. recompute: norms and the gelu in the backward pass, see `GroupNorm`.
    """

    channels: int
    num_heads: int
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"
    recompute: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], context: Float[Array, "b s d"]) -> Float[Array, "b t c"]:
        def norm(name: str) -> nn.Module:
            layer_norm = nn.remat(nn.LayerNorm) if self.recompute and is_large(x.size) else nn.LayerNorm
            return layer_norm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)

        sizes = self.channels, self.num_heads, self.dtype, self.form
        x = x + Attention(*sizes, name="attn1")(norm("norm1")(x))
        x = x + Attention(*sizes, name="attn2")(norm("norm2")(x), context)
        return x + FeedForward(self.channels, self.dtype, self.recompute, name="ff")(norm("norm3")(x))


class Transformer2DModel(nn.Module):
    """Transformer blocks over the pixels of a feature map, added to it. Source: diffusers `Transformer2DModel`.

    The projections before and after are 1x1 convolutions in Stable Diffusion 1.x, and dense layers in later families.
    """

    channels: int
    num_heads: int
    norm_num_groups: int
    depth: int = 1
    linear_projection: bool = False
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], context: Float[Array, "b s d"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        h = GroupNorm(self.norm_num_groups, 1e-6, self.dtype, name="norm")(x)
        h = self._project("proj_in")(h).reshape(batch, height * width, channels)
        block = nn.remat(BasicTransformerBlock) if self.remat else BasicTransformerBlock
        for i in range(self.depth):
            name = f"transformer_blocks_{i}"
            h = block(channels, self.num_heads, self.dtype, self.form, not self.remat, name=name)(h, context)
        return x + self._project("proj_out")(h.reshape(x.shape))

    def _project(self, name: str) -> nn.Module:
        if self.linear_projection:
            return Dense(self.channels, dtype=self.dtype, name=name)
        return conv1x1(self.channels, self.dtype, name)


class AttentionBlock(nn.Module):
    """The VAE's attention over pixels, with one head. Its layers have the names of diffusers' former Flax models."""

    channels: int
    norm_num_groups: int
    dtype: DTypeLike = jnp.float32
    form: AttentionForm = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        h = GroupNorm(self.norm_num_groups, 1e-6, self.dtype, name="group_norm")(x)
        h = h.reshape(x.shape[0], -1, self.channels)
        query, key, value = (Dense(self.channels, dtype=self.dtype, name=n)(h) for n in ("query", "key", "value"))
        seen = attend(query, key, value, num_heads=1, form=self.form)
        out = Dense(self.channels, dtype=self.dtype, name="proj_attn")(seen)
        return x + out.reshape(x.shape)
