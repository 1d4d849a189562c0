"""The token side of erasure: a concept's token is taught to speak only in its own directions of the text basis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class TokenSideSettings:
    """The term mu relu(log(others / own) + tau) + relu(|token| / natural - limit)^2, and the use of codewords."""

    token_side: float = 0.0
    """mu, the weight of the token side: the token learns to say little outside the directions that its adapter owns.
    0: off. It takes --assignment text."""
    token_side_margin: float = 2.5
    """tau: own directions are to have e^tau times the energy of others, in units of ordinary text. 2.5 for 16 blocks,
    3.9 for 64."""
    token_side_own: Literal["rest", "token"] = "rest"
    """Where own energy is measured: from the token to the end of the prompt, or at the token's own positions only, so
    that the words after it stay as they are."""
    token_norm_limit: float = 3.0
    """With the token side: embeddings longer than this many times the median of the token table cost."""
    token_start: Literal["noun", "codeword"] = "noun"
    """Where the token starts: apart from its class noun, or at its slot's codeword, which the basis file holds."""
    negatives_from: Literal["nouns", "codewords"] = "nouns"
    """What negative tokens are drawn around: class nouns, or the codewords of other slots than the concept's own."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def is_on(self) -> bool:
        """Whether the term is part of the loss."""
        return self.token_side > 0

    @property
    def needs_codewords(self) -> bool:
        """Whether anything starts at a codeword."""
        return self.token_start == "codeword" or self.negatives_from == "codewords"
