"""The token side of erasure: keeps the text features of a concept's token in the directions that the concept owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class TokenSideSettings:
    """The term mu relu(log(others / own) + tau) + relu(|token| / natural - limit)^2, and the use of codewords."""

    token_side: float = 0.1
    """mu, the weight of the token side: a loss that keeps the token's text features small outside the directions that
    the concept owns. 0: off. It needs --assignment text."""
    token_side_margin: float = 3.9
    """tau: own directions should have at least e^tau times the energy of others, in units of ordinary text. 3 for 16
    blocks, 3.9 for 64."""
    token_side_own: Literal["rest", "token"] = "token"
    """Where own energy is measured: from the token to the end of the prompt, or at the token's own positions only, so
    that the words after it stay as they are."""
    token_norm_limit: float = 3.0
    """With the token side: embeddings longer than this many times the token table's median length are penalised."""
    token_start: Literal["noun", "codeword"] = "codeword"
    """Where the token starts: at a distance from its class noun, or near its slot's codeword from the basis file."""
    negatives_from: Literal["nouns", "codewords"] = "codewords"
    """What negative tokens are drawn around: class nouns, or the codewords of slots that the concept does not own."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def is_on(self) -> bool:
        """Whether the term is part of the loss."""
        return self.token_side > 0

    @property
    def needs_codewords(self) -> bool:
        """Whether any setting uses codewords."""
        return self.token_start == "codeword" or self.negatives_from == "codewords"
