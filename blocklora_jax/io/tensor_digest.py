"""A digest of the contents of a safetensors file, for detecting damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

# The header's entry that holds the digest of everything else in the file.
DIGEST_KEY = "blocklora_digest"


class TensorDigest:
    """Collects tensors in any order, one at a time. Gives one digest of them and of the header's texts."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, key: str, tensor: np.ndarray) -> None:
        """Add a tensor, with its bytes as in the file: little-endian, in C order."""
        tensor = np.ascontiguousarray(tensor)
        # As bytes, because bfloat16 does not support the buffer protocol.
        data = tensor.reshape(-1).view(np.uint8).data
        self._lines.append(f"{key} {tensor.dtype.name} {list(tensor.shape)} {hashlib.sha256(data).hexdigest()}")

    def hexdigest(self, metadata: Mapping[str, str]) -> str:
        """Hex SHA-256 of all tensors and of the header's texts, without the entry `DIGEST_KEY`."""
        texts = {key: value for key, value in sorted(metadata.items()) if key != DIGEST_KEY}
        return hashlib.sha256(json.dumps([sorted(self._lines), texts]).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Hex SHA-256 of arrays by name. It covers the name, dtype, shape and bytes of each."""
    digest = TensorDigest()
    for key, tensor in tensors.items():
        digest.add(key, tensor)
    return digest.hexdigest({})
