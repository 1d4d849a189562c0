"""The CLIP text encoder."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from blocklora_jax.models.attention import attend
from blocklora_jax.models.config import CLIPConfig, TextConfig
from blocklora_jax.models.linear import Dense

Hidden = Float[Array, "b t d"]


def activate(x: Float[Array, "*n"], name: str) -> Float[Array, "*n"]:
    """`quick_gelu`: x sigmoid(1.702 x); `gelu`: the exact one."""
    return x * jax.nn.sigmoid(1.702 * x) if name == "quick_gelu" else jax.nn.gelu(x, approximate=False)


def _layer_norm(config: CLIPConfig, dtype: DTypeLike, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=dtype, use_fast_variance=False, name=name)


class SelfAttention(nn.Module):
    """Multi-head attention, causal in the text tower."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    is_causal: bool = True

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        width = self.config.hidden_size
        query, key, value = (Dense(width, dtype=self.dtype, name=n)(x) for n in ("q_proj", "k_proj", "v_proj"))
        out = attend(query, key, value, self.config.num_attention_heads, self.is_causal)
        return Dense(width, dtype=self.dtype, name="out_proj")(out)


class MLP(nn.Module):
    """Two dense layers."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        x = Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        x = activate(x, self.config.hidden_act)
        return Dense(self.config.hidden_size, dtype=self.dtype, name="fc2")(x)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each after a layer norm and added to its input."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    is_causal: bool = True

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        normed = _layer_norm(self.config, self.dtype, "layer_norm1")(x)
        x = x + SelfAttention(self.config, self.dtype, self.is_causal, name="self_attn")(normed)
        normed = _layer_norm(self.config, self.dtype, "layer_norm2")(x)
        return x + MLP(self.config, self.dtype, name="mlp")(normed)


class Layers(nn.Module):
    """The stack; its children are named 0, 1, … as in the files."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    is_causal: bool = True

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        for i in range(self.config.num_hidden_layers):
            x = EncoderLayer(self.config, self.dtype, self.is_causal, name=str(i))(x)
        return x


class Encoder(nn.Module):
    """Holds `layers`."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    is_causal: bool = True

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        return Layers(self.config, self.dtype, self.is_causal, name="layers")(x)


class Embeddings(nn.Module):
    """Token and position tables."""

    config: TextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b t"]) -> Hidden:
        config, length = self.config, input_ids.shape[-1]
        tokens = nn.Embed(config.vocab_size, config.hidden_size, dtype=self.dtype, name="token_embedding")
        positions = nn.Embed(
            config.max_position_embeddings, config.hidden_size, dtype=self.dtype, name="position_embedding"
        )
        return tokens(input_ids) + positions(jnp.arange(length)[None, :])


class TextTransformer(nn.Module):
    """Embeddings, encoder, final norm."""

    config: TextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b t"]) -> Hidden:
        x = Embeddings(self.config, self.dtype, name="embeddings")(input_ids)
        x = Encoder(self.config, self.dtype, name="encoder")(x)
        return _layer_norm(self.config, self.dtype, "final_layer_norm")(x)


class CLIPTextModel(nn.Module):
    """Text states for cross-attention. Source: transformers `CLIPTextModel`, its `last_hidden_state`."""

    config: TextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b t"]) -> Hidden:
        """Hidden states [b, t, hidden_size] of token ids [b, t], t <= max_position_embeddings, after the final norm.

        Raises: ValueError if the prompts are longer than the position table, which a gather would silently clip.
        """
        longest = self.config.max_position_embeddings
        if input_ids.shape[1] > longest:
            raise ValueError(f"{input_ids.shape[1]} tokens a prompt, but the text encoder reads at most {longest}")
        return TextTransformer(self.config, self.dtype, name="text_model")(input_ids)
