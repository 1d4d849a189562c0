"""Keeps the arrays of many adapters in a temporary file, so that memory holds only those that are in use."""

from __future__ import annotations

import tempfile
from typing import Any

import jax
import numpy as np

from blocklora_jax.adapters.adapter import Adapter

_ALIGNED = 64


def on_disk(adapter: Adapter) -> Adapter:
    """`adapter` with equal arrays that are read from a temporary file when they are used.

    The file has no name, so nothing is left behind, however the process ends. Its place on the disk is freed with the
    arrays. It is in the folder of TMPDIR, which should not be in memory.
    """
    return arrays_on_disk(adapter)


def arrays_on_disk(tree: Any) -> Any:
    """A tree of arrays, with each array in a temporary file; see `on_disk`.

    >>> arrays_on_disk({"a": np.arange(3.0)})["a"].sum()
    np.float64(3.0)
    """
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.ascontiguousarray(leaf) for leaf in leaves]
    starts = np.cumsum([0, *(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)])
    if not starts[-1]:
        return tree
    with tempfile.TemporaryFile() as file:
        for start, array in zip(starts, arrays, strict=False):
            file.seek(int(start))
            file.write(array.reshape(-1).view(np.uint8).data)
        file.truncate(int(starts[-1]))
        file.flush()
        bytes_ = np.memmap(file, np.uint8, "r")
    mapped = [
        np.asarray(bytes_[start : start + array.nbytes]).view(array.dtype).reshape(array.shape)
        for start, array in zip(starts, arrays, strict=False)
    ]
    return jax.tree.unflatten(structure, mapped)
