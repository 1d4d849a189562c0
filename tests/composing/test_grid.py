"""Adapters in a basis change the same weights; their sum is exact, in any order, and close to the sum of fp64."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_builders import CONVOLUTIONS, UNET, flatten, make_adapter, make_params, same_bits, unblock

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.composing.grid import exact_product, grid_step, is_on_grid, merge_on_grid
from blocklora_jax.composing.overlap import layers_on_grid
from blocklora_jax.layouts.low_rank import LoRAPair

IN_BASIS = Partition(num_blocks=6, basis="0123456789abcdef", assignment="text")
NAMES = ("ada", "bob", "cyd", "dan", "eve")
LAYERS = {"unet": UNET}
FIRST = {"unet": dict([*UNET.items()][:1])}
KERNEL = f"unet/{next(iter(UNET))}/kernel"
TABLE = "text_encoder/text_model/embeddings/token_embedding/embedding"
properties = settings(max_examples=8, deadline=None, derandomize=True)
weights_of = st.lists(st.floats(-0.5, 0.5, width=32), min_size=5, max_size=5)


@cache
def adapters() -> tuple[Adapter, ...]:
    """Five on slots of their own, of ranks 1 to 5, in three layers, one of them a 1x1 convolution."""
    return tuple(make_adapter(name, (i,), IN_BASIS, rank=1 + i, layers=LAYERS) for i, name in enumerate(NAMES))


def kernels(params) -> dict[str, Any]:
    flat: dict[str, Any] = flatten(params)
    return {f"unet/{layer}/kernel": flat[f"unet/{layer}/kernel"] for layer in UNET}


def change(adapter: Adapter, weight: float, path: str) -> np.ndarray:
    """dW in fp64."""
    pair = adapter.lora["unet"][path.removeprefix("unet/").removesuffix("/kernel")]
    a, b = (np.asarray(x, np.float64) for x in pair)
    return adapter.info.scale * weight * a @ b


@properties
@given(weights_of, st.permutations(range(5)), st.permutations(range(5)))
def test_sums_are_the_same_bits_in_any_order(weights, order, other):
    pairs = [
        (np.float32(w) * a.lora["unet"][next(iter(UNET))].lora_A, a.lora["unet"][next(iter(UNET))].lora_B)
        for a, w in zip(adapters(), weights, strict=True)
    ]
    kernel = kernels(make_params())[KERNEL]
    one, two = (merge_on_grid(kernel, [pairs[i] for i in each]) for each in (order, other))
    assert same_bits(one, two)
    # Two parts make a sum as one does: nothing is rounded in between, below 2^24 steps.
    assert is_on_grid(one, kernel)


def test_sums_on_a_device_are_the_same_bits_in_any_order():
    pairs: list[Any] = [tuple(a.lora["unet"][next(iter(UNET))]) for a in adapters()]
    kernel = jnp.asarray(kernels(make_params())[KERNEL])
    expected = merge_on_grid(kernel, pairs)
    # Of one shape, so that it is compiled once: the fifth takes another place with each order.
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert same_bits(merge_on_grid(kernel, [pairs[i] for i in order]), expected)
    assert is_on_grid(expected, kernel)


@properties
@given(weights_of, st.permutations(range(5)))
def test_merges_are_the_same_bits_in_any_order(weights, order):
    params = make_params()
    one = merge.compose(params, adapters(), weights)
    other = merge.compose(params, [adapters()[i] for i in order], [weights[i] for i in order])
    assert all(same_bits(x, kernels(other)[path]) for path, x in kernels(one).items())


@properties
@given(weights_of)
def test_a_merge_is_the_sum_of_fp64_up_to_the_grid(weights):
    params = make_params()
    merged = kernels(merge.compose(params, adapters(), weights))
    for path, base in kernels(params).items():
        exact = unblock(base) + sum(change(a, w, path) for a, w in zip(adapters(), weights, strict=True))
        step = grid_step(base)
        # Half a step a change, and what the factors lose: sums of up to 5 products, below 20, of factors that keep 25
        # digits of their largest. The merged weight itself is off by a quarter of a step.
        bound = 5 * (step / 2 + 5 * 20 * 2**-24) + step / 4
        assert np.abs(unblock(merged[path]) - exact).max() <= bound


def test_what_others_add_to_a_concept_alone_is_what_they_add_to_the_base():
    params, weights = make_params(), [1.0, 0.3, -0.7, 0.5, 1.0]
    together, alone, others = (
        kernels(merge.compose(params, adapters()[i:j], weights[i:j])) for i, j in ((0, 5), (0, 1), (1, 5))
    )
    for path, base in kernels(params).items():
        step = grid_step(base)
        sums = [np.rint((x[path].astype(np.float64) - base) / step) for x in (together, alone, others)]
        np.testing.assert_array_equal(sums[0], sums[1] + sums[2])
        assert np.abs(sums[2]).max() > 1000


@pytest.mark.parametrize("rank", [1, 8, 9, 32, 33])
def test_products_are_exact_whole_numbers_of_units(rank):
    rng = np.random.default_rng(rank)
    a, b = (rng.standard_normal(shape, np.float32) for shape in ((24, rank), (rank, 16)))
    step = 2.0**-19
    product = exact_product(a, b, step)
    # Backwards, in another order of the sums.
    assert same_bits(product, exact_product(a[:, ::-1], b[::-1], step))
    # Factors keep 23 digits or more of their largest, about 4.
    np.testing.assert_allclose(product * step, a.astype(np.float64) @ b, rtol=0, atol=rank * 16 * 2**-23)


def test_adapters_that_change_nothing_add_nothing():
    params = make_params()
    empty = [
        replace(a, lora={"unet": {k: LoRAPair(p.lora_A, 0 * p.lora_B) for k, p in a.lora["unet"].items()}})
        for a in adapters()[:2]
    ]
    alone = kernels(merge.compose(params, empty, [1, -1]))
    # By value: where a kernel is owned, -0.0 becomes 0.0.
    assert all(np.array_equal(x, alone[path]) for path, x in kernels(params).items())
    one, both = (kernels(merge.compose(params, [*empty[:i], *adapters()[2:4]])) for i in (0, 2))
    assert all(same_bits(x, both[path]) for path, x in one.items())


def test_kernels_of_zeros_have_a_grid_too():
    zeros = jax.tree.map(np.zeros_like, make_params())
    merged = kernels(merge.compose(zeros, adapters()[:2], [0.1, 0.1]))
    for path, base in kernels(zeros).items():
        assert grid_step(np.asarray(base)) == 2.0**-20
        assert is_on_grid(merged[path], base)
        exact = sum(change(a, 0.1, path) for a in adapters()[:2])
        # Half a step for each of two, and fp32 products of numbers up to 20.
        np.testing.assert_allclose(unblock(merged[path]), exact, rtol=0, atol=2.0**-20 + 20 * 2**-23)


@pytest.mark.parametrize("largest", [0.0, 1e-30, 2.0**-64, 0.3, 0.5, 1.0, np.float32(1) - np.float32(2**-24), 7e30])
def test_the_step_is_the_same_power_of_two_on_a_device(largest):
    kernel = np.array([[largest, -largest / 3], [np.nan, np.inf]], np.float32)
    step = grid_step(kernel)
    assert np.log2(step) == int(np.log2(step))
    # Halves fall to the even number, so that a change shows how large a step is on the device.
    pair = np.array([[2.5 * step], [-3.5 * step]], np.float32), np.ones((1, 2), np.float32)
    added = merge_on_grid(jnp.asarray(np.stack([kernel[0], [0, 0]])), [pair])
    assert np.asarray(added)[1].tolist() == [-4 * step] * 2
    assert np.asarray(added)[0, 0] == np.float32(largest) + np.float32(2 * step)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_rounded_once_and_keeps_its_type(kind, dtype):
    params = jax.tree.map(kind, make_params(dtype=dtype))
    merged = kernels(merge.compose(params, adapters()[:3]))
    wide = jax.tree.map(lambda x: kind(np.asarray(x, np.float32)), params)
    for path, kernel in kernels(merge.compose(wide, adapters()[:3])).items():
        assert same_bits(merged[path], np.asarray(kernel).astype(dtype))


def test_a_jitted_merge_is_bit_equal_and_traced_weights_are_close():
    params = jax.tree.map(jnp.asarray, make_params())
    weights = [1.0, 0.3, -0.7]
    plain = kernels(merge.compose(params, adapters()[:3], weights))
    jitted = kernels(jax.jit(lambda p, a: merge.compose(p, a, weights))(params, adapters()[:3]))
    assert all(same_bits(x, jitted[path]) for path, x in plain.items())
    traced = kernels(jax.jit(merge.compose)(make_params(), adapters()[:3], weights))
    in_numpy = kernels(merge.compose(make_params(), adapters()[:3], weights))
    for path, kernel in in_numpy.items():
        # A product in fp32 may fall on the next step: three of those.
        np.testing.assert_allclose(traced[path], kernel, rtol=0, atol=4 * grid_step(kernels(make_params())[path]))


def test_merging_in_a_basis_is_differentiable():
    params = jax.tree.map(jnp.asarray, make_params())
    one_layer = [make_adapter(name, (i,), IN_BASIS, layers=FIRST) for i, name in enumerate(("ada", "bob"))]

    @jax.jit
    def energy(weights):
        merged = merge.compose(params, one_layer, [weights[0], weights[1]], check_base=False)
        return jnp.sum(jnp.square(kernels(merged)[KERNEL]))

    step, weights = 1e-2 * jnp.array([1.0, -1.0]), jnp.array([1.0, 0.5])
    expected = (energy(weights + step) - energy(weights - step)) / 2
    # Central differences of a quadratic are exact; what remains is fp32 rounding of a sum of ~1e4.
    np.testing.assert_allclose(jax.grad(energy)(weights) @ step, expected, rtol=1e-2)


def test_changes_beyond_what_can_be_told_are_summed_all_the_same():
    params, weights = make_params(), [300.0, -200.0, 100.0]
    one = kernels(merge.compose(params, adapters()[:3], weights))
    other = kernels(merge.compose(params, adapters()[2::-1], weights[::-1]))
    for path, base in kernels(params).items():
        assert same_bits(one[path], other[path])
        assert not is_on_grid(one[path], base)
        exact = unblock(base) + sum(change(a, w, path) for a, w in zip(adapters(), weights, strict=False))
        # fp32 factors of changes up to 6000.
        np.testing.assert_allclose(unblock(one[path]), exact, rtol=0, atol=6000 * 2**-21)


def test_transposed_views_and_small_convolutions_merge_like_any_other():
    params = make_params()
    views = jax.tree.map(np.asfortranarray, params)
    one, other = merge.compose(views, adapters()[:2]), merge.compose(params, adapters()[:2])
    assert all(jax.tree.leaves(jax.tree.map(same_bits, one, other)))
    pairs = [(np.ones((36, 1), np.float32), np.ones((1, 16), np.float32))]
    wide: Any = flatten(params)["unet/conv_in/kernel"]
    assert same_bits(merge_on_grid(wide, pairs).reshape(36, 16), merge_on_grid(wide.reshape(36, 16), pairs))
    assert set(UNET) & CONVOLUTIONS


def test_only_slots_of_ones_own_in_one_basis_are_on_the_grid():
    ada, bob = adapters()[:2]
    elsewhere = Partition(num_blocks=6, basis="f" * 16, assignment="text")
    layers = {f"unet/{layer}" for layer in UNET}
    assert layers_on_grid([ada]) == layers_on_grid([ada, bob]) == layers
    assert layers_on_grid([make_adapter("cyd")]) == layers_on_grid([make_adapter("cyd", partition=None)]) == set()
    for other in (
        make_adapter("cyd", (0,), IN_BASIS, layers=LAYERS),
        make_adapter("cyd", (2,), elsewhere, layers=LAYERS),
        make_adapter("cyd", (2,), layers=LAYERS),
        make_adapter("cyd", partition=None, layers=LAYERS),
    ):
        assert layers_on_grid([ada, bob, other]) == set()
    small = make_adapter("cyd", partition=None, layers=FIRST)
    assert layers_on_grid([ada, small]) == {f"unet/{layer}" for layer in [*UNET][1:]}


def test_sums_that_collide_are_those_of_the_plain_sum():
    """With `allow_overlap`, bit for bit as without a basis."""
    params = make_params()
    colliding = [make_adapter(name, (0,), IN_BASIS, layers=LAYERS) for name in ("ada", "bob")]
    plain = [replace(a, info=replace(a.info, partition=None, slots=())) for a in colliding]
    one, other = (kernels(merge.compose(params, each, [1, 0.3], allow_overlap=True)) for each in (colliding, plain))
    assert all(same_bits(x, other[path]) for path, x in one.items())


def test_one_entry_that_is_not_finite_spoils_no_other():
    params = make_params()
    sound = kernels(merge.compose(params, adapters()[:2]))[KERNEL]
    spoiled = make_params()
    kernel = kernels(spoiled)[KERNEL]
    kernel[3, 4] = np.inf
    merged = kernels(merge.compose(spoiled, adapters()[:2]))[KERNEL]
    assert np.isinf(merged[3, 4])
    assert (merged != sound).sum() == 1


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_sums_are_told_exactly_where_no_other_gives_the_same_weight(place):
    """Up to 8 times 2^e always; up to 16 times unless the base lies halfway between two steps; beyond, never."""
    step = 2.0**-20
    for offset, known in ((3.25, [True, True, False]), (2.5, [True, False, False])):
        base = np.array([[0.75, offset * step]], np.float32)
        assert grid_step(base) == step
        for count, told in zip((2**23 - 2**20, 2**23 + 2**22, 2**25), known, strict=True):
            pair = np.full((1, 1), count * step, np.float32), np.ones((1, 2), np.float32)
            assert is_on_grid(merge_on_grid(place(base), [pair]), place(base)) == told
