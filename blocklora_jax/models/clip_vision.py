"""The CLIP image encoder, and the two projections into the space that text and images share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from blocklora_jax.models.clip_text import Encoder
from blocklora_jax.models.config import CLIPConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(CLIPConfig):
    """The fields of a CLIP vision tower's `config.json`."""

    image_size: int = 224
    patch_size: int = 32
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    projection_dim: int = 512

    FIXED: ClassVar[Mapping[str, Any]] = {**CLIPConfig.FIXED, "num_channels": 3}
    HEADER: ClassVar[Mapping[str, Any]] = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
    }


class CLIPVisionModel(nn.Module):
    """Image embeddings [b, projection_dim], not normalised. Source: transformers `CLIPVisionModelWithProjection`."""

    config: VisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b p"]:
        """Embeddings of images that are already resized and normalised for this tower."""
        pooled = VisionTransformer(self.config, self.dtype, name="vision_model")(images)
        return nn.Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype, name="visual_projection")(pooled)


class VisionTransformer(nn.Module):
    """Sends the patches and a class token through the encoder, and gives the class token's normed state."""

    config: VisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        config = self.config

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=self.dtype, use_fast_variance=False, name=name)

        x = norm("pre_layrnorm")(VisionEmbeddings(config, self.dtype, name="embeddings")(images))
        x, _ = Encoder(config, self.dtype, is_causal=False, name="encoder")(x)
        return norm("post_layernorm")(x[:, 0])


class VisionEmbeddings(nn.Module):
    """Class token and patches, with positions added."""

    config: VisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b t d"]:
        config, width = self.config, self.config.hidden_size
        size = (config.patch_size, config.patch_size)
        patches = nn.Conv(width, size, size, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding")(images)
        patches = patches.reshape(len(images), -1, width)
        token = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(images), 1, width)).astype(patches.dtype), patches], axis=1)
        positions = nn.Embed(x.shape[1], width, dtype=self.dtype, name="position_embedding")
        return x + positions(jnp.arange(x.shape[1])[None, :])
