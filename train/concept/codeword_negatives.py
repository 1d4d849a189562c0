"""Negative tokens from codewords: those of other slots, with noise as large as training's changes of a token.

The tokens of other concepts start at the codewords of their slots, which everybody has. The directions in which
training moves them are not known.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.codewords import draw_codewords, jitter_deviation
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from train.concept.own_directions import OwnDirections
from train.concept.settings.tokens import TokenSettings


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
