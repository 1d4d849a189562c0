"""Digests of a state. Checkpoints hold them, so that a damaged or wrong checkpoint is noticed when it is read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.engine.parallel import gather


def describe_state(step: int, state: Any) -> dict[str, Any]:
    """The step, a digest of the leaves' paths, dtypes and shapes, and a digest that also covers their bytes.

    Every host of a pod must call it.
    """
    return {"step": step, "layout": layout_digest(state), "tensors": tensors_digest(state)}


def layout_digest(state: Any) -> str:
    """Hex SHA-256 of the path, dtype and shape of every leaf; leaves may be abstract."""
    return digest_of(sorted(_line(path, leaf) for path, leaf in _leaves(state)))


def tensors_digest(state: Any) -> str:
    """Hex SHA-256 of the path, dtype, shape and bytes of every leaf. Every host of a pod must call it."""
    whole = jax.device_get([as_numbers(leaf) for _, leaf in _leaves(gather(state))])
    lines = [
        f"{_line(path, leaf)} {hashlib.sha256(_bytes(numbers)).hexdigest()}"
        for (path, leaf), numbers in zip(_leaves(state), whole, strict=True)
    ]
    return digest_of(sorted(lines))


def _leaves(state: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(state)


def _line(path: Any, leaf: Any) -> str:
    return f"{jax.tree_util.keystr(path)} {leaf.dtype} {list(leaf.shape)}"


def as_numbers(leaf: Any) -> Any:
    """`leaf`; for a typed random key, its numbers."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _bytes(array: Any) -> memoryview:
    # uint8, because bfloat16 arrays do not support the buffer protocol.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def digest_of(value: Any) -> str:
    """Hex SHA-256 of `value` as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
