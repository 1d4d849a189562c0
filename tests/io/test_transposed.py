"""Copies by blocks equal NumPy's."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora_jax.io.transposed import contiguous, copy_into


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(0, 34), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
)
def test_contiguous_copy_equals_numpys(shape, order, dtype) -> None:
    axes = list(range(len(shape)))
    order.shuffle(axes)
    array = (
        np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape).transpose(axes) % 1024
    )  # within float16
    found, expected = contiguous(array, dtype), np.ascontiguousarray(array, dtype).reshape(array.shape)
    assert found.flags.c_contiguous
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_contiguous_array_is_not_copied() -> None:
    array = np.zeros((3, 4), np.float32)
    assert contiguous(array) is array
    assert contiguous(array, np.float32) is array


@pytest.mark.parametrize(
    "array", [np.broadcast_to(np.float32(2), (40, 40)), np.arange(80.0).reshape(40, 2)[::-1, ::-1]]
)
def test_broadcast_and_reversed_arrays_are_copied_too(array: np.ndarray) -> None:
    np.testing.assert_array_equal(copy_into(np.empty(array.shape, array.dtype), array), array)
