"""CLIP's text encoder with the weights of all layers stacked, so that deep ones compile as fast as shallow ones."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import Embeddings, EncoderLayer
from blocklora_jax.models.config import TextConfig


class StackedText(nn.Module):
    """States [b, t, d] of ids [b, t]; the same as `CLIPTextModel` gives.

    The params have "text_model": "embeddings", "layers" (an `EncoderLayer` whose leaves have a first axis of layers),
    and "final_layer_norm".

    Attributes:
        config: the architecture; how many layers there are follows from the params.
        has_final_norm: False gives the states as the next layer would read them.
    """

    config: TextConfig
    has_final_norm: bool = True

    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """The states."""
        text = self.variables["params"]["text_model"]
        # Without a parent these modules take the params that they are given.
        layer = EncoderLayer(self.config, parent=None)
        x = apply_model(Embeddings(self.config, parent=None), text["embeddings"], ids)
        x, _ = jax.lax.scan(lambda x, params: (apply_model(layer, params, x), None), x, text["layers"])
        if not self.has_final_norm:
            return x
        norm = nn.LayerNorm(epsilon=self.config.layer_norm_eps, use_fast_variance=False, parent=None)
        return apply_model(norm, text["final_layer_norm"], x)
