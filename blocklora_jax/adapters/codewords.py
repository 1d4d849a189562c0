"""What is made of a basis' codewords: a token's start for some slots, and negative tokens from other slots."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.basis import Codewords
from blocklora_jax.errors import UserError

# Separates these draws from other draws of the same seed.
_STREAM = 0xC0DE


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


def of_slots(table: Float[np.ndarray, "K w d"], slots: tuple[int, ...], vectors: int) -> Float[np.ndarray, "v d"]:
    """`vectors` embeddings: the mean of the codewords of `slots`, repeated or cut to this number.

    The text features of the mean lie in the directions of all slots. They do so less if each slot's codeword gives one
    embedding.
    """
    return table[list(slots)].mean(0)[np.arange(vectors) % table.shape[1]]
