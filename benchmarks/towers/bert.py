"""The forward pass of a trained BERT with the interface of our text encoders. Attention looks both ways.

Padding gives states of zero, so that only real positions count in energies and in the basis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.layouts.token_tables import TOKEN_TABLE

_WORDS = "embeddings.word_embeddings.weight"
Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class BertConfig:
    """What of a `config.json` is used."""

    vocab_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float
    pad_token_id: int = 0


class BertText(nn.Module):
    """States [b, t, d] of ids [b, t], zero at padding. The params are those of `bert_params`.

    Source: transformers `BertModel`, exact gelu.
    """

    config: BertConfig

    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """The states."""
        params = self.variables["params"]
        tensors, words = params["tensors"], params["text_model"]["embeddings"]["token_embedding"]["embedding"]
        real = ids != self.config.pad_token_id
        positions = tensors["embeddings.position_embeddings.weight"][None, : ids.shape[1]]
        x = words[ids] + positions + tensors["embeddings.token_type_embeddings.weight"][:1, None]
        x = self._norm(x, tensors, "embeddings.LayerNorm")
        for index in range(self.config.num_hidden_layers):
            x = self._layer(x, real, tensors, f"encoder.layer.{index}")
        return x * real[..., None]

    def _layer(self, x: Array, real: Array, tensors: Tensors, name: str) -> Array:
        split = (*x.shape[:2], self.config.num_attention_heads, -1)
        parts = [_dense(x, tensors, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        query, key, value = (part.reshape(split) for part in parts)
        seen = jax.nn.dot_product_attention(query, key, value, mask=real[:, None, None, :]).reshape(x.shape)
        seen = _dense(seen, tensors, f"{name}.attention.output.dense")
        x = self._norm(x + seen, tensors, f"{name}.attention.output.LayerNorm")
        inner = jax.nn.gelu(_dense(x, tensors, f"{name}.intermediate.dense"), approximate=False)
        return self._norm(x + _dense(inner, tensors, f"{name}.output.dense"), tensors, f"{name}.output.LayerNorm")

    def _norm(self, x: Array, tensors: Tensors, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.config.layer_norm_eps)
        return scaled * tensors[f"{name}.weight"][None, None] + tensors[f"{name}.bias"][None, None]


def bert_params(tensors: Tensors) -> dict[str, Any]:
    """Params of `BertText`: the word table where our text encoders have it, and the tensors as a file names them."""
    kept = {name: tensor for name, tensor in tensors.items() if name != _WORDS and not name.endswith("position_ids")}
    return {**unflatten_params({TOKEN_TABLE: tensors[_WORDS]}), "tensors": kept}


def _dense(x: Array, tensors: Tensors, name: str) -> Array:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"][None, None]
