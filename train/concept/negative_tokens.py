"""Negative tokens: random tokens like those of other concepts. Erasure makes the adapter's output small for them.

Where trained tokens of other concepts are known (`--negative-tokens`), most negative tokens are drawn to resemble them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from train.concept.known_tokens import Offsets, load_offsets
from train.concept.settings.tokens import TokenSettings

# Share of the negative tokens that resemble trained ones, if such are known. The others are drawn around nouns.
RESEMBLING = 0.7
# Noise on a token that resembles trained ones, in standard deviations of the token table.
APART = 0.5


def draw_negative_tokens(
    settings: TokenSettings, sd: StableDiffusion, nouns: Int[np.ndarray, " p"], seed: int
) -> dict[str, Float[np.ndarray, "p v d"]]:
    """By text encoder, the embeddings of a negative token for each of p prompts, fp32. They lie around the nouns.

    A function of the seed. Raises: UserError for files of `settings.negative_tokens` that cannot be used.
    """
    spread = settings.token_spread, settings.token_spread * settings.negative_spread
    known, negative = load_offsets(settings.negative_tokens, sd), {}
    for part in sd.models.text_encoders:
        key, table = tower_key(jax.random.key(seed + 1), part), token_table(sd.params, part)
        embeddings = negative_embeddings(table, nouns, settings.token_vectors, spread, key)
        if part in known:
            embeddings = _resembling(embeddings, table, nouns, known[part], key)
        negative[part] = np.asarray(embeddings)
    return negative


def tower_key(key: PRNGKeyArray, component: str) -> PRNGKeyArray:
    """The random key for the embeddings of a text encoder. Each text encoder has its own."""
    return jax.random.fold_in(key, 3) if component == "text_encoder_2" else key


def negative_embeddings(
    table: Float[Array | np.ndarray, "n d"],
    nouns: Int[np.ndarray, " p"],
    vectors: int,
    spread: tuple[float, float],
    key: PRNGKeyArray,
) -> Float[Array, "p v d"]:
    """Random embeddings around the nouns, each row at a random distance. Other concepts' tokens could be such.

    spread: smallest and largest distance, in standard deviations of the table. New tokens start at the smallest
    distance. Training moves them up to the largest.
    """

    def draw(noun: Array, row: Array) -> Array:
        far_key, row_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 2), row))
        deviation = table.std() * jax.random.uniform(far_key, minval=spread[0], maxval=spread[1])
        return table[noun][None] + deviation * jax.random.normal(row_key, (vectors, table.shape[1]))

    # On the host it is a NumPy array.
    table = jnp.asarray(table)
    return jax.vmap(draw)(jnp.asarray(nouns), jnp.arange(len(nouns)))


def _resembling(
    embeddings: Float[Array, "p v d"],
    table: Float[Array | np.ndarray, "n d"],
    nouns: Int[np.ndarray, " p"],
    known: Offsets,
    key: PRNGKeyArray,
) -> Float[Array, "p v d"]:
    """`embeddings` with most rows replaced by draws from a Gaussian with the mean and covariance of `known`."""
    rows, vectors, width = embeddings.shape
    chosen_key, mix_key, noise_key = jax.random.split(jax.random.fold_in(key, 4), 3)
    offsets = jnp.asarray(known)[:, jnp.arange(vectors) % known.shape[1]]
    mean = offsets.mean(0, keepdims=True)
    mix = jax.random.normal(mix_key, (rows, len(known))) / max(len(known) - 1, 1) ** 0.5
    apart = APART * table.std() * jax.random.normal(noise_key, (rows, vectors, width))
    resembling = table[jnp.asarray(nouns)][:, None] + mean + jnp.einsum("pk,kvd->pvd", mix, offsets - mean) + apart
    return jnp.where(jax.random.uniform(chosen_key, (rows, 1, 1)) < RESEMBLING, resembling, embeddings)
