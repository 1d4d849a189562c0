"""Adapters with NaN are not merged. Values that their type cannot hold are refused, not written as infinity."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from merge_builders import flatten, make_adapter, make_params

import merge
from blocklora_jax.composing.check import adapter_problems
from blocklora_jax.composing.overflow import may_overflow
from blocklora_jax.errors import UserError
from merge.cli.check import unmeasured
from merge.concatenate import concatenate

ADA, BOB = make_adapter("ada", (0,)), make_adapter("bob", (1,))
LAYER = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"


def spoiled(adapter, value: float = np.nan):
    """The adapter with one entry of one factor replaced."""
    layer = LAYER.removeprefix("unet/")
    pair = adapter.lora["unet"][layer]
    up = np.array(pair.lora_B)
    up[0, 3] = value
    return replace(adapter, lora={**adapter.lora, "unet": {**adapter.lora["unet"], layer: pair._replace(lora_B=up)}})


@pytest.mark.parametrize(
    "use",
    [
        lambda a: merge.compose(make_params(), [a, BOB]),
        lambda a: merge.average(make_params(), [a, BOB]),
        lambda a: merge.ties(make_params(), [a, BOB]),
        lambda a: merge.dare(make_params(), [a, BOB]),
        lambda a: concatenate([a, BOB]),
        lambda a: merge.gradient_fusion(make_params(), [a, BOB], {}),
        lambda a: merge.replace(make_params(), make_params(), [BOB], "bob", a),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_that_is_not_finite_is_refused_wherever_it_is_used(use, value):
    with pytest.raises(UserError, match=f"'ada' has values that are not finite .* in {LAYER} lora_B"):
        use(spoiled(ADA, value))


def test_a_token_that_is_not_finite_is_a_problem():
    (problem,) = adapter_problems([replace(ADA, tokens={"<ada>": np.full((2, 24), np.nan, np.float32)})], None, False)
    assert "in token <ada>" in problem


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e39, "much", None, [1.0]])
def test_a_weight_must_be_a_number_that_float32_holds(weight):
    with pytest.raises(UserError, match="is not a finite number"):
        merge.compose(make_params(), [ADA], [weight])


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    ("dtype", "weight"),
    [(np.float16, 1e6), (ml_dtypes.bfloat16, 3e38), (np.float32, 3e38)],
    ids=["half", "brain", "single"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_weight_that_overflows_the_params_is_refused(place, dtype, weight):
    params = jax.tree.map(place, make_params(dtype=dtype))
    name = np.dtype(dtype).name
    with pytest.raises(UserError, match=rf"kernel.* gets values beyond the range of {name}: give smaller weights"):
        merge.compose(params, [ADA, BOB], [weight, 1])
    assert all(np.isfinite(np.asarray(x)).all() for x in flatten(merge.compose(params, [ADA, BOB], [2, 1])).values())


def test_a_token_that_overflows_half_precision_is_refused():
    loud = replace(ADA, tokens={"<ada>": np.full((2, 24), 1e5, np.float32)})
    with pytest.raises(UserError, match=r"token_embedding/embedding gets values beyond the range of float16"):
        merge.compose(make_params(dtype=np.float16), [loud])


def test_a_replacement_that_overflows_a_merge_in_half_precision_is_refused():
    base = make_params()
    params = jax.tree.map(lambda x: np.asarray(x, np.float16), merge.compose(base, [BOB]))
    with pytest.raises(UserError, match="beyond the range of float16"):
        merge.replace(params, base, [BOB], "bob", replace(ADA, info=replace(ADA.info, alpha=1e7)))


def test_a_base_that_is_not_finite_is_told_from_an_overflow():
    params = make_params(dtype=np.float16)
    kernel = params["unet"]["mid_block"]["attentions_0"]["proj_in"]["kernel"]
    kernel[0, 0, 0, 0] = np.nan
    with pytest.raises(
        UserError, match=r"proj_in/kernel already has NaN or infinity in the base: fetch the model again"
    ):
        merge.compose(params, [ADA])


def test_inside_jit_nothing_is_checked():
    composed = jax.jit(lambda p, a, w: merge.compose(p, [a], [w], check_base=False))
    merged = flatten(composed(make_params(dtype=np.float16), ADA, jnp.float32(1e6)))
    assert not np.isfinite(np.asarray(merged[f"{LAYER}/kernel"])).all()


def test_ordinary_changes_are_not_checked_twice():
    assert not may_overflow([ADA, BOB], [1.0, -1e6])
    assert may_overflow([ADA, BOB], [1.0, 1e30])


def test_export_in_half_precision_refuses_what_would_be_infinite(tmp_path):
    with pytest.raises(UserError, match=r"to_k.* beyond the range of float16; save as bfloat16 or float32"):
        merge.export([ADA], tmp_path / "x.safetensors", weights=[1e6], dtype="float16")
    with pytest.raises(UserError, match="beyond the range of float32; merge with smaller weights"):
        concatenate([replace(ADA, info=replace(ADA.info, alpha=1e30))], [1e30])
    assert list(tmp_path.iterdir()) == []


def test_crosstalk_that_is_not_finite_is_a_problem():
    pairs, others = np.array([[1.0, 0.2], [np.inf, np.inf]]), np.array([0.2, np.inf])
    (problem,) = unmeasured(["ada", "bob"], pairs, others)
    assert "the crosstalk on the prompts of 'bob' is not finite" in problem
