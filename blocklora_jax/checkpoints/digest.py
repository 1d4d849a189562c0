"""A fingerprint of a base model, by which a merge knows that adapters were trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from blocklora_jax.checkpoints.trees import flatten_params

COMPONENTS = ("text_encoder", "unet")


def params_digest(params: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the U-Net and the text encoder: of each parameter's path, shape and values rounded to fp16.

    The rounding makes fp32 and fp16 files of one model agree. (A bfloat16 file was rounded otherwise: it is another
    model.) The autoencoder is left out, as adapters do not depend on it.

    Args:
        params: {"unet": nested dict of arrays, "text_encoder": …}; further components are ignored.
    """
    flat = flatten_params({component: params[component] for component in COMPONENTS})
    # NumPy and hashlib let go of the interpreter's lock, and each thread holds one tensor's copy only.
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda path: _hash_leaf(path, flat[path]), sorted(flat))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _hash_leaf(path: str, leaf: Any) -> bytes:
    with np.errstate(over="ignore"):
        half = np.asarray(leaf).astype("<f2", order="C")
    digest = hashlib.sha256(f"{path} {half.shape}\n".encode())
    digest.update(half.data)
    return digest.digest()
