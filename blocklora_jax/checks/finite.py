"""Finds NaN and infinity, and converts tensors to smaller types without creating any."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.io.transposed import contiguous
from blocklora_jax.io.tree_paths import flatten_params


def is_finite(array: Any) -> bool:
    """Whether an array of floats of any width has neither NaN nor infinity. Arrays of integers are finite."""
    x = np.asarray(array)
    if x.dtype.kind in "biu":
        return True
    # The sum is finite only if all entries are, and much faster to compute than a check of each entry.
    with np.errstate(over="ignore", invalid="ignore"):
        return isfinite(sum_of_squares(x)) or bool(np.isfinite(x).all())


def narrow(name: str, array: Any, dtype: np.dtype) -> np.ndarray:
    """`array` as `dtype`, contiguous. safetensors silently writes wrong data for an array that is not contiguous.

    Raises: UserError naming the tensor, if it has NaN or infinity, or values beyond the range of `dtype`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = contiguous(np.asarray(array), dtype)
    if is_finite(cast):
        return cast
    if not is_finite(array):
        raise UserError(
            f"{name} has values that are not finite (NaN or infinity): it is damaged, or its training failed"
        )
    wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(dtype.name, "")
    advice = f"save as {wider}, or merge with smaller weights" if wider else "merge with smaller weights"
    raise UserError(f"{name} has values beyond the range of {dtype.name}; {advice}")


def nonfinite_leaves(params: Mapping[str, Any]) -> list[str]:
    """Paths of the parameters that have NaN or infinity."""
    return [path for path, leaf in flatten_params(params).items() if not is_finite(leaf)]


def sum_of_squares(x: np.ndarray) -> float:
    """The sum of squares. It is not finite if an entry is not, or if the sum overflows.

    If `x` is one number broadcast to all entries, only that number is squared.
    """
    if x.size and not any(x.strides):
        # Such as an adapter of broadcast zeros, which take no memory. A copy of all entries could fill the memory.
        x = x[(slice(0, 1),) * x.ndim]
    flat = x.ravel(order="K")
    flat = flat if flat.itemsize >= 4 else flat.astype(np.float32)
    return float(np.dot(flat, flat))
