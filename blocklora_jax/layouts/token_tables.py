"""The table of token embeddings in a text encoder: where it is, how to read it, and how to replace it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocklora_jax.layouts.components import TEXT_ENCODERS

# The table's path within a text encoder, and by component the path within a whole model.
TOKEN_TABLE = "text_model/embeddings/token_embedding/embedding"
TOKEN_TABLES = {component: f"{component}/{TOKEN_TABLE}" for component in TEXT_ENCODERS}


def token_table(params: Mapping[str, Any], component: str = "text_encoder") -> Any:
    """The embeddings [n, d] of a text encoder's tokens. params: a whole model's parameters, by component."""
    return params[component]["text_model"]["embeddings"]["token_embedding"]["embedding"]


def with_token_table(encoder: Mapping[str, Any], table: Any) -> dict[str, Any]:
    """The parameters of one text encoder with another table. All other arrays are shared with `encoder`."""
    text = encoder["text_model"]
    embeddings = {**text["embeddings"], "token_embedding": {"embedding": table}}
    return {**encoder, "text_model": {**text, "embeddings": embeddings}}
