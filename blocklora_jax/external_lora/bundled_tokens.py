"""Embeddings that OneTrainer and A1111 bundle with a LoRA (`bundle_emb`): they become concept tokens.

| key | vectors for |
|---|---|
| `bundle_emb.NAME.string_to_param.*`, `bundle_emb.NAME.emb_params` | the only text encoder |
| `bundle_emb.NAME.clip_l`, `….clip_g` | the first and the second text encoder of SDXL |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.errors import UserError

_KEY = re.compile(r"bundle_emb\.(.+?)\.(string_to_param\.\*|emb_params|clip_l|clip_g)")
_FIELDS = {"string_to_param.*": 0, "emb_params": 0, "clip_l": 0, "clip_g": 1}
# A prompt has 77 places.
_MOST_VECTORS = 75
_Vectors = dict[str, Float[np.ndarray, "v d"]]


class BundledTokens(NamedTuple):
    """{"<name>": vectors [v, d]} for the first text encoder and for the second."""

    tokens: _Vectors
    tokens_2: _Vectors


def is_bundled(key: str) -> bool:
    """Whether a tensor belongs to a bundled embedding."""
    return key.startswith("bundle_emb.")


def bundled_tokens(tensors: Mapping[str, np.ndarray], path: object) -> BundledTokens:
    """The tokens among a file's tensors.

    Raises: UserError for vectors of another program's text encoder, or of a shape that no token has, and for two names
        that become the same token.
    """
    found: tuple[_Vectors, _Vectors] = ({}, {})
    for key, tensor in tensors.items():
        if not is_bundled(key):
            continue
        match = _KEY.fullmatch(key)
        if match is None:
            raise UserError(f"{path} bundles an embedding of a kind that is not read: {key[:100]}")
        vectors = np.asarray(np.atleast_2d(tensor), np.float32)
        if vectors.ndim != 2 or not 0 < len(vectors) <= _MOST_VECTORS or not vectors.shape[1]:
            raise UserError(f"{path}: the embedding {key[:100]} has the shape {list(tensor.shape)}")
        if not np.isfinite(vectors).all():
            raise UserError(f"{path}: the embedding {key[:100]} has values that are not finite")
        token, place = _token(match[1]), found[_FIELDS[match[2]]]
        if token in place:
            raise UserError(f"{path} bundles two embeddings that would both be called {token}")
        place[token] = vectors
    return BundledTokens(*found)


def _token(name: str) -> str:
    """A concept token: small letters, digits, '-' and '_'.

    >>> _token("<My Dog>")
    '<my-dog>'
    """
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:60]
    return f"<{plain or 'token'}>"
