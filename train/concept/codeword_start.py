"""A concept's token at the codewords of its slots, before the first step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from train.concept.negative_tokens import tower_key
from train.concept.own_directions import OwnDirections

# How far from its codeword a token starts, in deviations of the token table.
# Two concepts of one slot do not start equal.
_APART = 0.1


def codeword_start(
    own: OwnDirections, vectors: int, sd: StableDiffusion, key: PRNGKeyArray
) -> list[Float[Array, "v d"]]:
    """The token's embeddings for each text encoder, fp32. key: of the concept's name."""
    assert own.codewords is not None
    found = []
    for part in sd.models.text_encoders:
        start = of_slots(np.asarray(own.codewords[part], np.float32), own.slots, vectors)
        noise = jax.random.normal(tower_key(key, part), start.shape)
        found.append(jnp.asarray(start) + _APART * token_table(sd.params, part).astype(jnp.float32).std() * noise)
    return found


def of_slots(table: Float[np.ndarray, "K w d"], slots: tuple[int, ...], vectors: int) -> Float[np.ndarray, "v d"]:
    """`vectors` embeddings: the mean of the codewords of `slots`, repeated or cut to so many.

    The mean, because it speaks in the directions of all of them; an embedding of each slot's codeword does so less.
    """
    return table[list(slots)].mean(0)[np.arange(vectors) % table.shape[1]]
