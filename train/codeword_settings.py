"""How codewords are optimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.checks.bounds import BOUNDS, Bound, check_number

# Positions of a prompt: those of the token, or all from the token on.
Positions = Literal["token", "rest"]
# With a rate of 0 nothing would be optimised.
_OWN_BOUNDS = {"learning_rate": Bound(0, 1e3, above=True, whole=False)}


@dataclass(frozen=True, kw_only=True)
class CodewordSettings:
    """The optimisation of codewords.

    vectors: v, the number of embeddings of a token. prompts: number of prompts with each slot's token in a step.
    learning_rate: of Adam, in standard deviations of the token table. limit: length of an embedding above which it is
    penalised, in multiples of the natural length. chunk: number of slots that are optimised at the same time; memory
    grows with chunk * prompts. own: positions at which the token's own energy is measured. With "rest" a token can
    reach the goal in the padding alone, which is most of a prompt.
    """

    vectors: int = 2
    steps: int = 60
    prompts: int = 4
    learning_rate: float = 0.1
    limit: float = 3.0
    chunk: int = 8
    seed: int = 0
    own: Positions = "rest"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if bound := _OWN_BOUNDS.get(name, BOUNDS.get(name)):
                check_number(name, value, shown=f"--codewords.{name.replace('_', '-')}", bound=bound)
