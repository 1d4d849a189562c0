"""The padding at the end of prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

# Number of padding positions that are kept after the longest prompt. Further ones would add nothing new.
KEPT = 4


def crop_padding(ids: Int[np.ndarray, "p *e t"]) -> Int[np.ndarray, "p *e s"]:
    """`ids` without most of the padding at their end. Attention is causal, so the states before it do not change."""
    text_positions = np.flatnonzero((ids != ids[..., -1:]).reshape(-1, ids.shape[-1]).any(0))
    return ids[..., : (text_positions.max(initial=0) + 2 + KEPT)]
