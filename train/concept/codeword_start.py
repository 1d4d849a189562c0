"""The initial token of a concept, taken from the codewords of its slots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from blocklora_jax.adapters.codewords import of_slots
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from train.concept.negative_tokens import tower_key
from train.concept.own_directions import OwnDirections

# Distance of the initial token from its codeword, in standard deviations of the token table. It is not 0, so that two
# concepts of one slot do not start with equal tokens.
_APART = 0.1


def codeword_start(
    own: OwnDirections, vectors: int, sd: StableDiffusion, key: PRNGKeyArray
) -> list[Float[Array, "v d"]]:
    """The token's embeddings for each text encoder, fp32. key: seeded by the concept's name."""
    assert own.codewords is not None
    embeddings = []
    for part in sd.models.text_encoders:
        start = of_slots(np.asarray(own.codewords[part], np.float32), own.slots, vectors)
        noise = jax.random.normal(tower_key(key, part), start.shape)
        deviation = token_table(sd.params, part).astype(jnp.float32).std()
        embeddings.append(jnp.asarray(start) + _APART * deviation * noise)
    return embeddings
