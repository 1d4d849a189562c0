"""NaN and infinity are found in tensors of every type, and no cast makes any."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from blocklora_jax.adapters.finite import check_finite, largest_change
from blocklora_jax.checkpoints.weights import aligned_copy, cast_tensors
from blocklora_jax.checks.finite import is_finite, narrow, nonfinite_leaves
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.layouts.textual_inversion import embedding_tensors
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params

HALF, BRAIN, SINGLE, DOUBLE = (np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))


@pytest.fixture(scope="module")
def adapter():
    return random_adapter("ada", tiny_params(), slots=(0,), layers="cross_kv")


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(dtype, bad):
    array = np.ones((7, 5), dtype)
    assert is_finite(array)
    array[3, 2] = bad
    assert not is_finite(array)
    assert not is_finite(array.T[:, ::3])


def test_large_and_whole_numbers_are_finite():
    assert is_finite(np.full(9, 3e38, SINGLE))
    assert is_finite(np.array([3e38, -3e38], SINGLE))
    assert is_finite(np.arange(3))
    assert is_finite(np.zeros((0, 4), SINGLE))


@pytest.mark.parametrize(
    ("value", "source", "target", "wider"),
    [
        (7e4, SINGLE, HALF, "save as bfloat16 or float32"),
        (7e4, BRAIN, HALF, "save as bfloat16 or float32"),
        (3.4e38, SINGLE, BRAIN, "save as float32"),
        (1e300, DOUBLE, SINGLE, "merge with smaller weights"),
    ],
)
def test_the_error_for_a_value_beyond_the_type_names_the_tensor_and_what_to_do(value, source, target, wider):
    with pytest.raises(UserError, match=f"unet/to_k has values beyond the range of {target.name}; .*{wider}"):
        narrow("unet/to_k", np.full((2, 2), value, source), target)


def test_values_that_fit_are_cast_and_made_contiguous():
    array = np.arange(12, dtype=SINGLE).reshape(3, 4).T
    cast = narrow("x", array, HALF)
    assert (cast.dtype, cast.flags.c_contiguous) == (HALF, True)
    np.testing.assert_array_equal(cast, array)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: cast_tensors({"a.weight": x}, "float32"),
        lambda x: aligned_copy("a.weight", x, "float32"),
        lambda x: embedding_tensors("a.weight", x, SINGLE),
    ],
)
def test_nan_is_refused_wherever_tensors_are_read_and_written(write):
    with pytest.raises(UserError, match=r"a\.weight has values that are not finite"):
        write(np.full((2, 2), np.nan, SINGLE))


def test_an_adapter_that_is_not_finite_is_not_saved(adapter, tmp_path):
    tokens = {"<ada>": np.full((2, 32), np.inf, SINGLE)}
    with pytest.raises(UserError, match="tokens/<ada> has values that are not finite"):
        replace(adapter, tokens=tokens).save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    adapter.save(tmp_path / "a.safetensors", "bfloat16")
    assert all(is_finite(x) for x in load_file(tmp_path / "a.safetensors").values())


def test_the_error_says_which_tensor_of_an_adapter_is_not_finite(adapter):
    layer, pair = next(iter(adapter.lora["unet"].items()))
    bad = pair._replace(lora_B=np.where(pair.lora_B > 0, np.nan, pair.lora_B))
    check_finite([adapter])
    with pytest.raises(UserError, match=f"'ada' has values that are not finite .* in unet/{layer} lora_B:"):
        check_finite([adapter, replace(adapter, lora={"unet": {**adapter.lora["unet"], layer: bad}})])
    with pytest.raises(UserError, match="in alpha:"):
        check_finite([replace(adapter, info=replace(adapter.info, alpha=float("nan")))])


def test_the_largest_change_bounds_every_entry(adapter):
    entries = [np.abs(a @ b).max() for a, b in adapter.lora["unet"].values()]
    assert max(entries) * adapter.info.scale <= largest_change(adapter) < 1e4


def test_zeros_that_take_no_memory_are_not_copied(adapter):
    pair = LoRAPair(np.broadcast_to(np.float32(0), (10**9, 10**6)), np.broadcast_to(np.float32(0), (10**6, 10**9)))
    assert largest_change(replace(adapter, lora={"unet": {"x": pair}})) == 0
    assert is_finite(pair.lora_A)


def test_parameters_that_are_not_finite_are_named():
    params = {"unet": {"a": {"kernel": np.ones(3)}, "b": {"kernel": np.array([1, np.nan])}}}
    assert nonfinite_leaves(params) == ["unet/b/kernel"]
