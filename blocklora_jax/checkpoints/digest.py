"""A cheap fingerprint of a model, by which a merge knows that adapters were trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.layouts.components import ADAPTED

SAMPLES = 16


def params_digest(params: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the U-Net and the text encoders: of each parameter's path, shape and 16 evenly spaced values.

    Values are rounded to fp16, so that fp32 and fp16 files of one model agree. (A bfloat16 file was rounded otherwise:
    it is another model.) The autoencoder is left out, as adapters do not depend on it. A sample is enough to tell models,
    and merges of one model, apart, and lets `merge.compose` check without reading all weights.

    Args:
        params: {"unet": nested dict of arrays, "text_encoder": …, for SDXL "text_encoder_2": …}; others are ignored.
    """
    components = {name: params[name] for name in ADAPTED if name in params}
    leaves = jax.tree_util.tree_leaves_with_path(components)
    # Fetched together: one by one, each leaf would wait for the device.
    samples = jax.device_get([_samples(leaf) for _, leaf in leaves])
    names = [leaf_path(path) for path, _ in leaves]
    digest = hashlib.sha256()
    for i in sorted(range(len(leaves)), key=names.__getitem__):
        with np.errstate(over="ignore"):
            half = np.asarray(samples[i]).astype("<f2")
        digest.update(f"{names[i]} {tuple(leaves[i][1].shape)}\n".encode() + half.tobytes())
    return digest.hexdigest()


def _samples(leaf: Any) -> Any:
    positions = np.linspace(0, leaf.size - 1, min(SAMPLES, leaf.size)).astype(np.int64)
    index = np.unravel_index(positions, leaf.shape)
    if isinstance(leaf, jax.Array) and any(device.platform != "cpu" for device in leaf.devices()):
        return leaf[index]
    # In host memory already: indexing there compiles nothing and copies nothing.
    return np.asarray(leaf)[index]
