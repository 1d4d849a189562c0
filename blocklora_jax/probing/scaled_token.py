"""Tokens in units of their table, so that one learning rate fits all models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from blocklora_jax.layouts.token_tables import token_table

# By text encoder, the embeddings of a token, [v, d].
Token = Mapping[str, Any]


def scale_token(token: Token, towers: Mapping[str, Any]) -> dict[str, Array]:
    """A token in standard deviations of the table around its mean. towers: the parameters of the text encoders."""
    spread = {part: _spread(towers, part) for part in token}
    return {part: (own - spread[part][0]) / spread[part][1] for part, own in token.items()}


def unscale_token(scaled: Token, towers: Mapping[str, Any]) -> dict[str, Array]:
    """The inverse of `scale_token`."""
    spread = {part: _spread(towers, part) for part in scaled}
    return {part: spread[part][0] + spread[part][1] * own for part, own in scaled.items()}


def _spread(towers: Mapping[str, Any], part: str) -> tuple[Float[Array, "1 d"], Float[Array, ""]]:
    """The mean of a token table, and the standard deviation of its numbers."""
    table = jnp.asarray(token_table(towers, part), jnp.float32)
    return table.mean(0)[None], table.std()
