"""Negative tokens from a public codebook: other slots' codewords, moved as far as training moves a token.

Other people's tokens start at their slots' codewords, which everybody has; where training takes them from there nobody knows.
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

# Which draws are made of a seed; others' are their own.
_STREAM = 0xC0DE


def codeword_negatives(
    settings: TokenSettings, sd: StableDiffusion, own: OwnDirections, count: int, seed: int
) -> dict[str, Float[np.ndarray, "p v d"]]:
    """`draw_codewords` as far from them as the settings say that training moves a token, for each text encoder."""
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
    """By text encoder, another slot's codeword for each of `count` prompts, jittered; fp32, a function of the seed.

    own_slots: whose codewords are never drawn. vectors: of a token; codewords of fewer are repeated, of more cut.
    jitter: by text encoder, the deviation of the farthest moved; each row is moved by a uniform share of it (see
    `jitter_deviation`). Both text encoders have the same slot in a row.

    Raises: UserError if there is no other slot.
    """
    slots = len(next(iter(codewords.values())))
    others = np.setdiff1d(np.arange(slots), own_slots)
    if not len(others):
        raise UserError(f"all {slots} slots are the concept's own: there is nobody to be silent for")
    drawn = np.random.default_rng((seed, _STREAM)).choice(others, size=count)
    shares = np.random.default_rng((seed, _STREAM, 1)).random((count, 1, 1))
    found = {}
    for index, part in enumerate(sorted(codewords)):
        table = np.asarray(codewords[part], np.float32)
        chosen = table[drawn][:, np.arange(vectors) % table.shape[1]]
        noise = np.random.default_rng((seed, _STREAM, 2, index)).standard_normal(chosen.shape)
        found[part] = (chosen + jitter[part] * shares * noise).astype(np.float32)
    return found


def jitter_deviation(table_deviation: float, token_spread: float, negative_spread: float) -> float:
    """How far training moves a token, as a deviation of each of its numbers.

    Tokens start `token_spread` deviations of the token table from their noun, and end at up to `token_spread *
    negative_spread`. What training adds is independent of where they start, so squares add up: of the pocket model's sixteen
    packaged tokens, which end at 1.9 on average, 1.6; with the defaults 1.7.
    """
    return table_deviation * token_spread * max(negative_spread**2 - 1, 0.0) ** 0.5
