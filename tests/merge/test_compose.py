"""What `merge.compose` guarantees, as properties over partitions, slots and weights."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_builders import CONVOLUTIONS, ROWS, TEXT, UNET, flatten, make_adapter, make_params, nest, same_bits, unblock

import merge
from blocklora_jax.adapters.partition import Partition

NAMES = ("ada", "bob", "cyd", "dan")
TABLE = "text_encoder/text_model/embeddings/token_embedding/embedding"
properties = settings(max_examples=6, deadline=None, derandomize=True)


@st.composite
def merges(draw):
    """Adapters on disjoint slots of one partition, with their weights."""
    axis = draw(st.sampled_from(["in", "out", "grid"]))
    partition = Partition(num_blocks=draw(st.integers(4, 9)), axis=axis, seed=draw(st.integers(0, 5)))
    slots = draw(st.permutations(range(partition.num_blocks)))
    count = draw(st.integers(1, 4))
    cuts = sorted(draw(st.sets(st.integers(1, partition.num_blocks - 1), min_size=count - 1, max_size=count - 1)))
    owned = [tuple(sorted(slots[i:j])) for i, j in zip([0, *cuts], [*cuts, len(slots)], strict=True)]
    weights = draw(st.lists(st.floats(-2, 2, width=32), min_size=count, max_size=count))
    adapters = [make_adapter(NAMES[i], owned[i], partition, rank=1 + i, vectors=1 + i % 2) for i in range(count)]
    return adapters, weights


def owned_mask(adapter, component, layer, shape) -> np.ndarray:
    rows, columns = adapter.info.support(component, layer, shape)
    mask = np.zeros(shape, bool)
    mask[np.ix_(rows, columns)] = True
    return mask


def adapted_kernels(params):
    flat = flatten(params)
    for component, layers in (("unet", UNET), ("text_encoder", TEXT)):
        for layer, shape in layers.items():
            yield component, layer, shape, unblock(flat[f"{component}/{layer}/kernel"])


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@properties
@given(merges(), st.data())
def test_order_does_not_matter_bit_for_bit(kind, drawn, data):
    adapters, weights = drawn
    params = jax.tree.map(kind, make_params())
    order = data.draw(st.permutations(range(len(adapters))))
    one = flatten(merge.compose(params, adapters, weights))
    other = flatten(merge.compose(params, [adapters[i] for i in order], [weights[i] for i in order]))
    assert all(same_bits(one[path], other[path]) for path in one if path != TABLE)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@properties
@given(merges())
def test_on_its_block_each_concept_is_bit_equal_to_it_merged_alone_and_elsewhere_to_the_base(kind, drawn):
    adapters, weights = drawn
    params = jax.tree.map(kind, make_params())
    merged = list(adapted_kernels(merge.compose(params, adapters, weights)))
    alone = [list(adapted_kernels(merge.compose(params, [a], [w]))) for a, w in zip(adapters, weights, strict=True)]
    for i, (component, layer, shape, base) in enumerate(adapted_kernels(params)):
        untouched = np.ones(shape, bool)
        for adapter, single in zip(adapters, alone, strict=True):
            mask = owned_mask(adapter, component, layer, shape)
            assert same_bits(merged[i][3][mask], single[i][3][mask])
            untouched &= ~mask
        assert same_bits(merged[i][3][untouched], base[untouched])


@properties
@given(merges())
def test_the_rank_concatenated_form_is_the_same_merge(drawn):
    adapters, weights = drawn
    params = make_params()
    lowrank = merge.concatenate(adapters, weights)
    bases = adapted_kernels(params)
    for (component, layer, _, base), (*_, merged) in zip(
        bases, adapted_kernels(merge.compose(params, adapters, weights)), strict=True
    ):
        a, b = lowrank[component][layer]
        assert a.shape[1] == sum(adapter.info.rank for adapter in adapters)
        # fp32 sums of at most 10 products of size ~10 in another order.
        np.testing.assert_allclose(base + a @ b, merged, atol=2e-5, rtol=0)


@properties
@given(merges())
def test_jitted_compose_is_bit_equal(drawn):
    adapters, weights = drawn
    params = jax.tree.map(jnp.asarray, make_params())
    compiled = jax.jit(lambda p, a: merge.compose(p, a, weights))(params, adapters)
    plain = merge.compose(params, adapters, weights)
    assert jax.tree.structure(compiled) == jax.tree.structure(plain)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, compiled, plain)))


def test_weights_and_params_may_be_traced():
    adapters = [make_adapter("ada", (0,)), make_adapter("bob", (1,))]
    params = make_params()
    compiled = jax.jit(merge.compose)(params, adapters, [1.0, 0.5])
    plain = merge.compose(params, adapters, [1.0, 0.5])
    # NumPy and XLA round their matrix products differently in the last bit.
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5, rtol=0), compiled, plain)


def test_merging_is_differentiable():
    adapters = [make_adapter("ada", (0,)), make_adapter("bob", (1,))]
    params = make_params()

    def energy(weights):
        merged = merge.compose(params, adapters, [weights[0], weights[1]])
        return sum(jnp.sum(x * x) for x in jax.tree.leaves(merged["unet"]))

    step = 1e-2 * jnp.array([1.0, -1.0])
    weights = jnp.array([1.0, 0.5])
    expected = (energy(weights + step) - energy(weights - step)) / 2
    # Central differences of a quadratic are exact; what remains is fp32 rounding of a sum of ~1e4.
    np.testing.assert_allclose(jax.grad(energy)(weights) @ step, expected, rtol=1e-2)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_untouched_leaves_are_the_same_arrays_and_the_params_do_not_change(kind):
    params = jax.tree.map(kind, make_params())
    before = jax.tree.map(np.array, params)
    merged = merge.compose(params, [make_adapter("ada")])
    changed = {f"{c}/{layer}/kernel" for c, layers in (("unet", UNET), ("text_encoder", TEXT)) for layer in layers}
    base, flat = flatten(params), flatten(merged)
    assert {path for path in base if flat[path] is not base[path]} == changed | {TABLE}
    assert all(type(flat[path]) is type(base[path]) for path in base)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, before, params)))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_dtype_is_kept_and_sums_are_rounded_once(kind, dtype):
    params = jax.tree.map(kind, make_params(dtype=dtype))
    adapters = [make_adapter("ada", (0,)), make_adapter("bob", (1,))]
    merged = merge.compose(params, adapters)
    wide = merge.compose(jax.tree.map(lambda x: kind(np.asarray(x, np.float32)), params), adapters)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(merged))
    rounded = jax.tree.map(lambda x: kind(np.asarray(x).astype(dtype)), wide)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, merged, rounded)))


def test_frozen_params_stay_frozen():
    params = freeze(make_params())
    merged = merge.compose(params, [make_adapter("ada")])
    assert isinstance(merged, FrozenDict) and jax.tree.structure(merged) == jax.tree.structure(params)
    plain = merge.compose(params.unfreeze(), [make_adapter("ada")])
    assert all(jax.tree.leaves(jax.tree.map(same_bits, merged.unfreeze(), plain)))


def test_kernels_that_are_transposed_views_merge_like_any_other():
    params = make_params()
    views = jax.tree.map(lambda x: np.asfortranarray(x), params)
    adapters = [make_adapter("ada", (0, 2)), make_adapter("bob", (1,))]
    merged = merge.compose(views, adapters), merge.compose(params, adapters)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, *merged)))


def test_params_need_no_vae():
    params = make_params()
    del params["vae"]
    assert merge.compose(params, [make_adapter("ada")]).keys() == {"unet", "text_encoder"}


def test_weight_scales_the_change():
    params, adapter = make_params(), make_adapter("ada", (1, 3), alpha=5.0)
    merged = flatten(merge.compose(params, [adapter], [0.5]))
    base = flatten(params)
    for layer, (a, b) in adapter.lora["unet"].items():
        change = unblock(merged[f"unet/{layer}/kernel"]) - unblock(base[f"unet/{layer}/kernel"])
        # fp32, values of size ~10.
        np.testing.assert_allclose(change, 0.5 * 5.0 / 2 * a @ b, atol=1e-5, rtol=0)
    assert any(layer in CONVOLUTIONS for layer in adapter.lora["unet"])


def test_token_rows_join_in_the_order_of_token_counts():
    one, other = make_adapter("zoe", (0,), vectors=3), make_adapter("bob", (1,), vectors=1)
    params = make_params()
    adapters = [one, other]
    table, merged = flatten(params)[TABLE], flatten(merge.compose(params, adapters))[TABLE]
    assert merge.token_counts(adapters) == {"<zoe>": 3, "<bob>": 1}
    assert list(merge.token_counts(adapters)) == ["<zoe>", "<bob>"]
    assert same_bits(merged, np.concatenate([table, one.tokens["<zoe>"], other.tokens["<bob>"]]))


def test_tokens_of_one_adapter_keep_their_rows_under_jit():
    adapter, extra = make_adapter("zoe"), make_adapter("ada")
    two = type(adapter)(lora=adapter.lora, tokens={**adapter.tokens, **extra.tokens}, info=adapter.info)
    params = make_params()
    compiled = jax.jit(merge.compose)(params, [two])
    assert list(merge.token_counts([two])) == ["<ada>", "<zoe>"]
    assert same_bits(flatten(compiled)[TABLE], flatten(merge.compose(params, [two]))[TABLE])


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_overlapping_adapters_sum_in_any_order_when_allowed(kind):
    params = jax.tree.map(kind, make_params())
    adapters = [make_adapter("ada", (0, 1)), make_adapter("bob", (1, 2)), make_adapter("cyd", partition=None)]
    adapters.append(make_adapter("dan", (3, 4), Partition(num_blocks=7, axis="grid", seed=2)))
    weights = [1.0, 0.3, -0.7, 2.0]
    merged = merge.compose(params, adapters, weights, allow_overlap=True)
    lowrank = merge.concatenate(adapters, weights, allow_overlap=True)
    bases = adapted_kernels(params)
    for (component, layer, _, base), (*_, kernel) in zip(bases, adapted_kernels(merged), strict=True):
        a, b = lowrank[component][layer]
        # fp32 sums of 8 products of size ~10 in another order.
        np.testing.assert_allclose(kernel, base + a @ b, atol=2e-5, rtol=0)
    for order in ([1, 0, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]):
        other = merge.compose(params, [adapters[i] for i in order], [weights[i] for i in order], allow_overlap=True)
        pairs = zip(adapted_kernels(merged), adapted_kernels(other), strict=True)
        assert all(same_bits(one[3], two[3]) for one, two in pairs)


def test_overlapping_sums_leave_everything_outside_as_it_was():
    params = make_params()
    adapters = [make_adapter("ada", (0, 1)), make_adapter("bob", (1, 2))]
    merged = adapted_kernels(merge.compose(params, adapters, allow_overlap=True))
    for (component, layer, shape, base), (*_, kernel) in zip(adapted_kernels(params), merged, strict=True):
        outside = ~(owned_mask(adapters[0], component, layer, shape) | owned_mask(adapters[1], component, layer, shape))
        assert outside.any() and same_bits(kernel[outside], base[outside])


def test_allowing_overlap_changes_nothing_where_there_is_none():
    params, adapters = make_params(), [make_adapter("ada", (0,)), make_adapter("bob", (3,))]
    one, other = merge.compose(params, adapters), merge.compose(params, adapters, allow_overlap=True)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, one, other)))


def test_no_adapters_give_the_params():
    params = make_params()
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: x is y, merge.compose(params, []), params)))


def test_sdxl_gets_each_tokens_rows_in_both_tables_in_one_order():
    params = make_params()
    params["text_encoder_2"] = nest({"text_model/embeddings/token_embedding/embedding": np.ones((ROWS, 5), np.float32)})
    adapters = []
    for slot, name in enumerate(("bob", "ada")):
        vectors = {f"<{name}>": np.full((2, 5), slot + 2, np.float32)}
        adapters.append(dataclasses.replace(make_adapter(name, (slot,)), tokens_2=vectors))
    merged = flatten(merge.compose(params, adapters))
    first, second = (
        merged[f"{part}/text_model/embeddings/token_embedding/embedding"] for part in ("text_encoder", "text_encoder_2")
    )
    np.testing.assert_array_equal(
        first[ROWS:], np.concatenate([adapters[0].tokens["<bob>"], adapters[1].tokens["<ada>"]])
    )
    assert second[:, 0].tolist() == [1] * ROWS + [2, 2, 3, 3]
