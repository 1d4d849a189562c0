"""How codewords are optimised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CodewordSettings:
    """vectors: v, embeddings of a token. prompts: how many each slot's token stands in, a step.

    learning_rate: Adam's, in deviations of the token table. limit: of a token's length, in natural ones.
    chunk: slots that are optimised at the same time; what they need of memory grows with chunk * prompts.
    """

    vectors: int = 2
    steps: int = 60
    prompts: int = 4
    learning_rate: float = 0.1
    limit: float = 3.0
    chunk: int = 8
    seed: int = 0
