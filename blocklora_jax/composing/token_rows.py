"""Checks that a model's token tables hold the tokens of given adapters, so that prompts read the right rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table


def check_token_rows(params: Mapping[str, Any], adapters: Sequence[Adapter], first_rows: Mapping[str, int]) -> None:
    """Compare the rows after those of the base with the adapters' vectors, in the adapters' order.

    params: a merged model's parameters. first_rows: by text encoder, the number of rows of its table without concepts.

    Raises: UserError if a row is missing or belongs to another concept.
    """
    for component, row in first_rows.items():
        table = token_table(params, component)
        for token, vectors in ordered_tokens(adapters, component):
            last = row + len(vectors)
            if last > len(table):
                raise UserError(
                    f"token {token} needs rows {row} to {last - 1} of the token table, which has {len(table)}: "
                    f"{_WAY_OUT}"
                )
            if not _equal(table[row:last], vectors):
                raise UserError(
                    f"rows {row} to {last - 1} of the token table are not those of token {token}: {_WAY_OUT}"
                )
            row = last


def refuse_spare_rows(params: Mapping[str, Any], adapters: Sequence[Adapter], first_rows: Mapping[str, int]) -> None:
    """Raises UserError if a token table has rows after those of the adapters, which no program could name."""
    for component, row in first_rows.items():
        used = row + sum(len(vectors) for _, vectors in ordered_tokens(adapters, component))
        if (count := len(token_table(params, component))) > used:
            raise UserError(
                f"cannot save: the token table has {count} rows for {used} tokens, as in a model of an AdapterSwitch; "
                "save the one that sd.with_adapters(adapters) gives"
            )


_WAY_OUT = "pass params composed with the adapters, in the same order, or let sd.with_adapters(adapters) compose them"


def _equal(stored: Any, vectors: Any) -> bool:
    """Whether two arrays are equal in the type of `stored`."""
    stored = np.asarray(stored)
    given = np.asarray(vectors).astype(stored.dtype)
    return np.array_equal(stored.astype(np.float32), given.astype(np.float32), equal_nan=True)
