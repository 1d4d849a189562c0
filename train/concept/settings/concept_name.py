"""The name of a concept in prompts."""

from __future__ import annotations

from typing import NamedTuple

from blocklora_jax.prompts.shares import Kind


class ConceptName(NamedTuple):
    """token: such as "<ada>". class_noun: such as "woman". kind: decides where in a prompt the concept stands.

    vectors: number of embeddings of the token. With 0, prompts have only the class noun.
    """

    token: str
    class_noun: str
    kind: Kind
    vectors: int

    @property
    def trigger(self) -> str:
        """The words that call the concept in a prompt: "<ada> woman"."""
        return f"{self.token} {self.class_noun}" if self.vectors else self.class_noun

    @property
    def token_vectors(self) -> dict[str, int]:
        """The token and its number of embeddings, in the form that tokenizers take; empty if there are none."""
        return {self.token: self.vectors} if self.vectors else {}
