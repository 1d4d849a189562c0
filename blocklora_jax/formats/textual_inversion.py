"""Concept tokens as textual-inversion safetensors, which diffusers' `load_textual_inversion` reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from blocklora_jax.errors import UserError

_TOKEN = re.compile(r"<([\w-]+)>")


def embedding_tensors(token: str, vectors: Float[np.ndarray, "v d"], dtype: np.dtype) -> dict[str, np.ndarray]:
    """{"<name>": [v, d]}: one token a file, because diffusers takes a file of several tensors for something else.

    Source: diffusers 0.42 `TextualInversionLoaderMixin._retrieve_tokens_and_embeddings`.
    """
    return {token: np.ascontiguousarray(vectors, dtype)}


def embedding_path(lora_path: str | Path, token: str) -> Path:
    """Where the token's file lies: `merged.safetensors` and "<ada>" give `merged.ada.safetensors`.

    Raises UserError if the token is not `<name>`.
    """
    name = _TOKEN.fullmatch(token)
    if name is None:
        raise UserError(f"token {token!r} cannot name a file: it must be '<name>' of letters, digits, '-' and '_'")
    return Path(lora_path).with_suffix(f".{name[1]}.safetensors")
