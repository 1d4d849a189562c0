"""The two tokenizers of SDXL, which differ in how they pad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from blocklora_jax.errors import UserError
from blocklora_jax.prompts.tokenizer import Tokenizer


class TokenizerPair:
    """Two tokenizers for two text encoders. They give ids [b, 2, t].

    Raises:
        UserError: the tokenizers have different vocabularies or lengths, which is not so in SDXL.
    """

    def __init__(self, first: Tokenizer, second: Tokenizer):
        if first.files.vocabulary != second.files.vocabulary or first.length != second.length:
            raise UserError(
                "tokenizer and tokenizer_2 differ in more than padding; they must have the same vocabulary, as in SDXL"
            )
        self.first, self.second = first, second

    def encode(self, prompts: Sequence[str], tokens: Mapping[str, int] | None = None) -> Int[np.ndarray, "b 2 t"]:
        """Token ids of `prompts`, int32, for the first text encoder and the second; see `Tokenizer.encode`."""
        return np.stack([self.first.encode(prompts, tokens), self.second.encode(prompts, tokens)], axis=1)

    @property
    def length(self) -> int:
        """The number of tokens to which prompts are padded."""
        return self.first.length
