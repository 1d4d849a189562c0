"""Settings of a conversion into a slot of the text basis."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora_jax.checks.bounds import check_number


@dataclass(frozen=True, kw_only=True)
class TextConversionConfig:
    """Settings of a conversion into a slot of the text basis.

    rank: rank of the result. A slot's change has at most as high a rank as the slot has directions.
    erase_weight: lambda.
    others: how many other concepts are expected in a merge.
    ridge: share of the inputs' mean square, at least 1e-6.
    prompts: number of prompts with the trigger.
    random_prompts: number of prompts without it.
    chunk: prompts that are encoded at once, which is also the number in each step.
    token_steps: steps of Adam that train the token; 0: it stays the slot's codeword.
    learning_rate: of the first step, in standard deviations of the token table. It falls to 0 along a cosine.
    token_side, token_side_margin, token_norm_limit: mu, tau and the limit of `adapters.token_side`.
    token_spread: the largest distance of negative tokens from their codewords, in standard deviations of the table.
    """

    rank: int = 16
    erase_weight: float = 1.0
    others: int = 15
    ridge: float = 1e-4
    prompts: int = 256
    random_prompts: int = 256
    chunk: int = 16
    token_steps: int = 400
    learning_rate: float = 0.1
    token_side: float = 0.1
    token_side_margin: float = 3.9
    token_norm_limit: float = 3.0
    token_spread: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(name, value)
