"""Negative tokens from codewords: those of other slots, with noise as large as training's changes of a token.

The tokens of other concepts start at the codewords of their slots, which everybody has. The directions in which
training moves them are not known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.basis import Codewords
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from train.concept.own_directions import OwnDirections
from train.concept.settings.tokens import TokenSettings

# Separates these draws from other draws of the same seed.
_STREAM = 0xC0DE


def codeword_negatives(
    settings: TokenSettings, sd: StableDiffusion, own: OwnDirections, count: int, seed: int
) -> dict[str, Float[np.ndarray, "p v d"]]:
    """Codewords of other slots with noise (see `draw_codewords`). The settings say how far training moves a token."""
    assert own.codewords is not None
    jitter = {
        part: jitter_deviation(
            float(np.asarray(token_table(sd.params, part), np.float32).std()),
            settings.token_spread,
            settings.negative_spread,
        )
        for part in sd.models.text_encoders
    }
    return draw_codewords(own.codewords, own.slots, count, settings.token_vectors, jitter, seed)


def draw_codewords(
    codewords: Codewords,
    own_slots: tuple[int, ...],
    count: int,
    vectors: int,
    jitter: Mapping[str, float],
    seed: int,
) -> dict[str, Float[np.ndarray, "p v d"]]:
    """By text encoder, a codeword of another slot for each of `count` prompts, with noise; fp32.

    A function of the seed. A row has the same slot in both text encoders.

    own_slots: slots whose codewords are never drawn. vectors: embeddings of a token; shorter codewords are repeated,
    longer ones are cut.
    jitter: by text encoder, the largest standard deviation of the noise (see `jitter_deviation`). The deviation of each
    row is drawn uniformly from 0 to this.

    Raises: UserError if there is no other slot.
    """
    slots = len(next(iter(codewords.values())))
    other_slots = np.setdiff1d(np.arange(slots), own_slots)
    if not len(other_slots):
        raise UserError(f"the concept owns all {slots} slots: no other slot is left for negative tokens")
    row_slots = np.random.default_rng((seed, _STREAM)).choice(other_slots, size=count)
    shares = np.random.default_rng((seed, _STREAM, 1)).random((count, 1, 1))
    negative = {}
    for index, part in enumerate(sorted(codewords)):
        table = np.asarray(codewords[part], np.float32)
        chosen = table[row_slots][:, np.arange(vectors) % table.shape[1]]
        noise = np.random.default_rng((seed, _STREAM, 2, index)).standard_normal(chosen.shape)
        negative[part] = (chosen + jitter[part] * shares * noise).astype(np.float32)
    return negative


def jitter_deviation(table_deviation: float, token_spread: float, negative_spread: float) -> float:
    """How far training moves a token, as a standard deviation of each of its numbers.

    Tokens start at a distance of `token_spread` from their noun, in standard deviations of the token table. They end at
    up to `token_spread * negative_spread`. The change by training is independent of the start, so the squares add up.
    """
    return table_deviation * token_spread * max(negative_spread**2 - 1, 0.0) ** 0.5
