"""What one training step reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from blocklora_jax.models.clip_text import TextOutput

# Batches come from the host; inside jit their leaves are JAX arrays.
Rows = Array | np.ndarray


class OwnPrompts(NamedTuple):
    """Prompts with the concept's own token, for the token side.

    owned: the directions of the basis that the concept owns, alike in every row: what a batch holds is split by rows.
    """

    ids: Int[Rows, "s *e t"]
    owned: Bool[Rows, "s d"]


class Batch(NamedTuple):
    """The rows of one step: b of the concept, r random ones. The numbers in `row` seed each row's noise.

    If the class is preserved (`erase="preserve"`), the random rows repeat the concept's rows under other prompts.

    Text comes as ids, which the step encodes (SDXL's are [b, 2, t]), or as the outputs of the text encoders: for the
    random rows if no text encoder is adapted, for the concept's rows if no token trains either. random_tokens: each
    row's negative token, by text encoder. What is not given is None.
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
