"""Contiguous copies of transposed arrays, by blocks.

PyTorch stores kernels transposed. NumPy copies a transposed array one line of the result at a time, and reads one
number from every line of the source for it. Blocks of a cache line's width take a quarter to a half of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

# 16 numbers of fp32 are a cache line.
_WIDTH = 16


def contiguous(array: np.ndarray, dtype: DTypeLike | None = None) -> np.ndarray:
    """`array` in C order, as `dtype` if given. Not copied if it is so already. Like `numpy.ascontiguousarray`."""
    kind = array.dtype if dtype is None else np.dtype(dtype)
    if array.flags.c_contiguous and array.dtype == kind:
        return array
    return copy_into(np.empty(array.shape, kind), array)


def copy_into(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`target[...] = source`; gives `target`, which is in C order. Both have one shape."""
    if source.ndim < 2 or source.strides[-1] <= source.strides[-2]:
        target[...] = source
        return target
    for start in range(0, source.shape[-1], _WIDTH):
        target[..., start : start + _WIDTH] = source[..., start : start + _WIDTH]
    return target
