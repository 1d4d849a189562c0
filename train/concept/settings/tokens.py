"""The embeddings of the concept's token, and those of the negative tokens in random prompts."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """The concept's embeddings, and negative tokens."""

    token_vectors: int = 2
    """How many embeddings the token stands for. 0 trains none: prompts then have the class noun alone."""
    token_spread: float = 1.0
    """How far new and negative tokens start from the class noun, in standard deviations of the token table."""
    negative_spread: float = 2.0
    """Negative tokens are drawn at up to this many times that distance, which is how far training moves new tokens."""
    negative_tokens: tuple[str, ...] | None = None
    """Adapters of other concepts on this base, folders of them, or files of `python -m train.negative_tokens`: most negative
    tokens are drawn to resemble theirs. If not given: those that come with the pocket model. Without a value: none."""

    def __post_init__(self) -> None:
        check_options(self)
