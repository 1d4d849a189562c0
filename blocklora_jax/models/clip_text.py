"""The CLIP text encoders. They give states for cross-attention and, for SDXL, the prompt as one vector too."""

from __future__ import annotations

from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from blocklora_jax.models.attend import attend
from blocklora_jax.models.config import CLIPConfig, TextConfig, TextProjectionConfig
from blocklora_jax.models.linear import Dense

Hidden = Float[Array, "b t d"]


def activate(x: Float[Array, "*n"], name: str) -> Float[Array, "*n"]:
    """`quick_gelu`: x sigmoid(1.702 x); `gelu`: the exact (erf) gelu."""
    return x * jax.nn.sigmoid(1.702 * x) if name == "quick_gelu" else jax.nn.gelu(x, approximate=False)


class _Part(nn.Module):
    """The base class of all parts of a CLIP tower: its config, the dtype, and whether attention is causal."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32
    is_causal: bool = True

    def _part(self, kind: type[_Part], name: str) -> _Part:
        return kind(self.config, self.dtype, self.is_causal, name=name)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype, use_fast_variance=False, name=name)


class SelfAttention(_Part):
    """Multi-head self-attention. It is causal in the text tower."""

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        width = self.config.hidden_size
        query, key, value = (Dense(width, dtype=self.dtype, name=n)(x) for n in ("q_proj", "k_proj", "v_proj"))
        out = attend(query, key, value, self.config.num_attention_heads, self.is_causal)
        return Dense(width, dtype=self.dtype, name="out_proj")(out)


class MLP(_Part):
    """Two dense layers."""

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        x = Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        x = activate(x, self.config.hidden_act)
        return Dense(self.config.hidden_size, dtype=self.dtype, name="fc2")(x)


class EncoderLayer(_Part):
    """Attention and feed-forward, each after a layer norm and added to its input."""

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        x = x + self._part(SelfAttention, "self_attn")(self._norm("layer_norm1")(x))
        return x + self._part(MLP, "mlp")(self._norm("layer_norm2")(x))


class Layers(_Part):
    """The stack of layers, named 0, 1, … as in the files. Gives the output, and the inputs of all layers."""

    @nn.compact
    def __call__(self, x: Hidden) -> tuple[Hidden, list[Hidden]]:
        inputs = []
        for i in range(self.config.num_hidden_layers):
            inputs.append(x)
            x = self._part(EncoderLayer, str(i))(x)
        return x, inputs


class Encoder(_Part):
    """The stack under the name `layers`, as in the files."""

    @nn.compact
    def __call__(self, x: Hidden) -> tuple[Hidden, list[Hidden]]:
        return self._part(Layers, "layers")(x)


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


class TextTransformer(_Part):
    """Embeddings, encoder, final norm. Gives the normed states, and the inputs of all layers, [b, t, d] each.

    skip: number of last layers that the normed states leave out.
    """

    config: TextConfig
    skip: int = 0

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b t"]) -> tuple[Hidden, list[Hidden]]:
        longest = self.config.max_position_embeddings
        if input_ids.shape[1] > longest:
            # Otherwise the look-up of positions would clip them silently.
            raise ValueError(f"{input_ids.shape[1]} tokens a prompt, but the text encoder reads at most {longest}")
        x = Embeddings(self.config, self.dtype, name="embeddings")(input_ids)
        last, inputs = self._part(Encoder, "encoder")(x)
        return self._norm("final_layer_norm")(inputs[-self.skip] if self.skip else last), inputs


class CLIPTextModel(nn.Module):
    """Text states for cross-attention. Source: transformers `CLIPTextModel`.

    Attributes:
        config: the architecture.
        dtype: type of the computation.
        penultimate: give the inputs of the last layer, without the final norm, as SDXL needs them.
        skip: number of last layers to leave out, besides that one.
    """

    config: TextConfig
    dtype: DTypeLike = jnp.float32
    penultimate: bool = False
    skip: int = 0

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b t"]) -> Hidden:
        """Hidden states [b, t, hidden_size] of token ids [b, t], t <= max_position_embeddings, after the final norm.

        Raises: ValueError if the prompts are longer than the position table.
        """
        last, inputs = TextTransformer(self.config, self.dtype, skip=self.skip, name="text_model")(input_ids)
        return inputs[-1 - self.skip] if self.penultimate else last


class TextOutput(NamedTuple):
    """states: read by cross-attention. pooled: each prompt as one vector, for U-Nets that read it too (SDXL)."""

    states: Float[Array, "b t d"]
    pooled: Float[Array, "b p"] | None = None


class CLIPTextModelWithProjection(nn.Module):
    """SDXL's second text encoder.

    skip: number of layers that the states leave out, besides the last one. The pooled text has all layers.

    Source: transformers `CLIPTextModelWithProjection`, `hidden_states[-2]`, `text_embeds`.
    """

    config: TextProjectionConfig
    dtype: DTypeLike = jnp.float32
    skip: int = 0

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b t"]) -> TextOutput:
        """The states before the last layer, and the pooled text.

        The states are [b, t, hidden_size]. The pooled text [b, projection_dim] is the projection of the end token's
        last state.

        Raises: ValueError if the prompts are longer than the position table.
        """
        last, inputs = TextTransformer(self.config, self.dtype, name="text_model")(input_ids)
        end = end_positions(input_ids, self.config)
        pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
        project = Dense(cast(int, self.config.projection_dim), use_bias=False, dtype=self.dtype, name="text_projection")
        return TextOutput(inputs[-1 - self.skip], project(pooled))


def end_positions(input_ids: Int[Array, "b t"], config: TextProjectionConfig) -> Int[Array, " b"]:
    """The position of each prompt's first end token. For the wrong id 2: of its largest id, as in transformers."""
    # The largest id may be a concept token's. So `checkpoints` writes the tokenizer's end token into configs it reads.
    is_end = input_ids if config.eos_token_id == 2 else input_ids == config.eos_token_id
    return jnp.argmax(is_end, axis=1)
