"""The embeddings of the concept's token, and those of the negative tokens in random prompts."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """The concept's embeddings, and negative tokens."""

    token_vectors: int = 2
    """Number of embeddings that the token stands for. With 0 none is trained, and prompts have only the class noun."""
    token_spread: float = 1.0
    """Distance of new tokens, and smallest distance of negative tokens, from the class noun, in standard deviations of
    the token table."""
    negative_spread: float = 2.0
    """Largest distance of negative tokens, in multiples of --token-spread. Training moves new tokens this far."""
    negative_tokens: tuple[str, ...] | None = None
    """Adapters of other concepts on this base, folders of adapters, or files of `python -m train.negative_tokens`. Most
    negative tokens are drawn to resemble their tokens. They need --negatives-from nouns. If none are given then, the
    pocket model uses the file that comes with it. Given without a value: no such tokens."""

    def __post_init__(self) -> None:
        check_options(self)
