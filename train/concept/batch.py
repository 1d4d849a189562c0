"""The data that one training step reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from blocklora_jax.models.clip_text import TextOutput

# Batches come from the host as NumPy arrays. Inside jit their leaves are JAX arrays.
Rows = Array | np.ndarray


class OwnPrompts(NamedTuple):
    """Prompts with the concept's own token, for the token side.

    owned: which directions of the basis the concept owns. It is the same in every row, and stored in each, because a
    batch is split by rows.
    """

    ids: Int[Rows, "s *e t"]
    owned: Bool[Rows, "s d"]


class Batch(NamedTuple):
    """The rows of one step: b of the concept, r random ones. The numbers in `row` and `random_row` seed their noise.

    If the class is preserved (`erase="preserve"`), the random rows repeat the concept's rows under other prompts.

    Text comes as ids, which the step encodes (for SDXL [b, 2, t]), or as outputs of the text encoders. The random rows
    have outputs if no text encoder is adapted; the concept's rows have them if no token trains either. random_tokens:
    by text encoder, the negative token of each row. Fields without a value are None.

    row_weights, random_row_weights: 0 for rows that only fill up devices (see `padding`), None if there are none.
    """

    latents: Float[Rows, "b h w c"]
    weights: Float[Rows, "b h w 1"]
    row: Int[Rows, " b"]
    random_latents: Float[Rows, "r h w c"]
    random_is_noise: Bool[Rows, " r"]
    random_row: Int[Rows, " r"]
    ids: Int[Rows, "b *e t"] | None = None
    random_ids: Int[Rows, "r *e t"] | None = None
    random_tokens: Mapping[str, Float[Rows, "r v d"]] | None = None
    text: TextOutput | None = None
    random_text: TextOutput | None = None
    own_prompts: OwnPrompts | None = None
    row_weights: Float[Rows, " b"] | None = None
    random_row_weights: Float[Rows, " r"] | None = None
