"""A cheap digest of a model. A merge uses it to check that adapters were trained on that model."""

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
    """Hex SHA-256 of the U-Net and the text encoders: the path, shape and 16 evenly spaced values of each parameter.

    Values are rounded to fp16, so that fp32 and fp16 files of one model have one digest. (A bfloat16 file is rounded
    differently and counts as another model.) The autoencoder is left out, because adapters do not depend on it. A
    sample of values is enough to distinguish models, and merges of one model, and `merge.compose` need not read all
    weights.

    Args:
        params: {"unet": nested dict of arrays, "text_encoder": …, for SDXL "text_encoder_2": …}; others are ignored.
    """
    components = {name: params[name] for name in ADAPTED if name in params}
    leaves = jax.tree_util.tree_leaves_with_path(components)
    # Fetched together, because each single fetch would wait for the device.
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
    # The leaf is in host memory: indexing it there compiles nothing and copies nothing.
    return np.asarray(leaf)[index]
