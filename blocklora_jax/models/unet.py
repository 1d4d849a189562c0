"""The denoiser of Stable Diffusion 1.x, 2.x and SDXL."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.models.config import UNetConfig
from blocklora_jax.models.precision import at_least_float32
from blocklora_jax.models.resnet import GroupNorm, conv3x3
from blocklora_jax.models.unet_blocks import DownBlock2D, MidBlock2D, UpBlock2D


def embed_timesteps(
    timesteps: Real[Array, " b"], channels: int, flip_sin_to_cos: bool = True, freq_shift: float | int = 0
) -> Float[Array, "b {channels}"]:
    """Sines and cosines of t * 10000^(-i / (channels / 2 - freq_shift)), fp32. Source: diffusers `Timesteps`."""
    half = channels // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None, :]
    parts = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.concatenate(parts, axis=-1)


class TimestepEmbedding(nn.Module):
    """Two dense layers over the sinusoids."""

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b d"]:
        x = nn.Dense(self.channels, dtype=self.dtype, name="linear_1")(x)
        return nn.Dense(self.channels, dtype=self.dtype, name="linear_2")(nn.silu(x))


class AddedConditions(NamedTuple):
    """What SDXL's U-Net reads besides the text states.

    pooled: the prompt as one vector [b, p]. size_ids: in pixels, height and width of the original picture, top and left
    of the crop taken from it, height and width of the target [b, 6].
    """

    pooled: Float[Array, "b p"]
    size_ids: Real[Array, "b 6"]


class UNet2DConditionModel(nn.Module):
    """Predicts noise (or velocity) from noisy latents, time and text.

    Attributes:
        config: the architecture.
        dtype: type of the computation; parameters, norms and softmax are always fp32.
        remat: recompute the inside of each residual block and transformer block in the backward pass. This trades time
            for memory.
        form: of the attention, see `attend`.

    Source: diffusers `UNet2DConditionModel`.
    """

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    form: AttentionForm = "auto"

    @nn.compact
    def __call__(
        self,
        sample: Float[Array, "b h w c"],
        timesteps: Real[Array, " b"],
        encoder_hidden_states: Float[Array, "b t d"],
        added: AddedConditions | None = None,
    ) -> Float[Array, "b h w o"]:
        """The prediction, in the shape of `sample`; timesteps 0..999, text states [b, t, cross_attention_dim].

        Raises: ValueError if the config has an `addition_embed_type` and `added` is missing, or the reverse.
        """
        config = self.config
        time = TimestepEmbedding(config.time_channels, self.dtype, name="time_embedding")(
            self._sinusoids(timesteps, config.block_out_channels[0])
        )
        if (added is None) != (config.addition_embed_type is None):
            raise ValueError(f"added conditions go with addition_embed_type, which is {config.addition_embed_type!r}")
        if added is not None:
            time = time + self._embed_added(added)
        context = encoder_hidden_states.astype(self.dtype)
        x = conv3x3(config.block_out_channels[0], self.dtype, "conv_in")(sample)
        x, skips = self._down(x, time, context)
        mid_block = MidBlock2D(name="mid_block", **self._shared(-1, "CrossAttn"))
        x = self._up(mid_block(x, time, context), skips, time, context)
        norm = GroupNorm(
            config.norm_num_groups,
            config.norm_eps,
            self.dtype,
            silu=True,
            name="conv_norm_out",
        )
        x = norm(x)
        return conv3x3(config.out_channels, self.dtype, "conv_out")(x)

    def _sinusoids(self, values: Real[Array, " n"], channels: int) -> Float[Array, "n {channels}"]:
        return embed_timesteps(values, channels, self.config.flip_sin_to_cos, self.config.freq_shift)

    def _embed_added(self, added: AddedConditions) -> Float[Array, "b k"]:
        width = self.config.addition_time_embed_dim
        assert width is not None
        sizes = self._sinusoids(added.size_ids.reshape(-1), width).reshape(len(added.size_ids), -1)
        x = jnp.concatenate([at_least_float32(added.pooled), sizes], axis=-1)
        return TimestepEmbedding(self.config.time_channels, self.dtype, name="add_embedding")(x)

    def _shared(self, index: int, block_type: str) -> dict[str, Any]:
        """Arguments that all kinds of blocks take, for a block as wide as down block `index`."""
        config = self.config
        return {
            "out_channels": config.block_out_channels[index],
            "num_heads": config.heads_by_block[index] if block_type.startswith("CrossAttn") else None,
            "depth": config.depth_by_block[index],
            "linear_projection": config.use_linear_projection,
            "norm_num_groups": config.norm_num_groups,
            "epsilon": config.norm_eps,
            "dtype": self.dtype,
            "form": self.form,
            "remat": self.remat,
        }

    def _down(self, x: jax.Array, time: jax.Array, context: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        config = self.config
        skips = [x]
        for i, block_type in enumerate(config.down_block_types):
            block = DownBlock2D(
                num_layers=config.layers_by_block[i],
                downsample=i < len(config.down_block_types) - 1,
                downsample_padding=config.downsample_padding,
                name=f"down_blocks_{i}",
                **self._shared(i, block_type),
            )
            x, block_skips = block(x, time, context)
            skips += block_skips
        return x, skips

    def _up(self, x: jax.Array, skips: list[jax.Array], time: jax.Array, context: jax.Array) -> jax.Array:
        config = self.config
        for i, block_type in enumerate(config.up_block_types):
            layers = config.layers_by_block[-1 - i] + 1
            skips, taken = skips[:-layers], tuple(skips[-layers:])
            block = UpBlock2D(
                # The size of the next skip. It is not always twice this one: odd sides were rounded on the way down.
                upsample_size=(skips[-1].shape[1], skips[-1].shape[2]) if skips else None,
                name=f"up_blocks_{i}",
                **self._shared(-1 - i, block_type),
            )
            x = block(x, taken, time, context)
        return x
