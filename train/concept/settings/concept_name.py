"""How a concept is called in prompts."""

from __future__ import annotations

from typing import NamedTuple

from blocklora_jax.prompts.shares import Kind


class ConceptName(NamedTuple):
    """token: such as "<ada>". class_noun: such as "woman". kind: where in a prompt the concept stands.

    vectors: embeddings of the token; with 0 prompts have the class noun alone.
    """

    token: str
    class_noun: str
    kind: Kind
    vectors: int

    @property
    def trigger(self) -> str:
        """What calls the concept in a prompt: "<ada> woman"."""
        return f"{self.token} {self.class_noun}" if self.vectors else self.class_noun

    @property
    def token_vectors(self) -> dict[str, int]:
        """The token and its number of embeddings, as tokenizers take it; empty without embeddings."""
        return {self.token: self.vectors} if self.vectors else {}
