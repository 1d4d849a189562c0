"""A digest of what a safetensors file holds, by which damage is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

# The header's entry that holds the digest of all the rest.
DIGEST_KEY = "blocklora_digest"


class TensorDigest:
    """Collects tensors in any order, one at a time; gives one digest of them and of the texts beside them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, key: str, tensor: np.ndarray) -> None:
        """Count a tensor in, as it lies in the file: little-endian, in C order."""
        tensor = np.ascontiguousarray(tensor)
        # As bytes: bfloat16 has no buffer of its own.
        data = tensor.reshape(-1).view(np.uint8).data
        self._lines.append(f"{key} {tensor.dtype.name} {list(tensor.shape)} {hashlib.sha256(data).hexdigest()}")

    def hexdigest(self, metadata: Mapping[str, str]) -> str:
        """Hex SHA-256 of all tensors and of the header's texts; an entry `DIGEST_KEY` is left out."""
        texts = {key: value for key, value in sorted(metadata.items()) if key != DIGEST_KEY}
        return hashlib.sha256(json.dumps([sorted(self._lines), texts]).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Hex SHA-256 of arrays by name: of each its name, dtype, shape and bytes."""
    digest = TensorDigest()
    for key, tensor in tensors.items():
        digest.add(key, tensor)
    return digest.hexdigest({})
