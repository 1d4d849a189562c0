"""The adapter pytree: initial values, masks, and how masks keep two adapters apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import apply_masks, block_masks, init_lora
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params

SHAPES = {"unet": {"attn2/to_k": (12, 9), "attn2/to_v": (12, 8)}, "text_encoder": {"q_proj": (8, 8)}}
AXES = ["in", "out", "grid"]


def make_info(axis: str | None = "in", slots=(1, 2), rank: int = 3) -> AdapterInfo:
    partition = Partition(num_blocks=4, axis=axis) if axis else None
    return AdapterInfo(
        name="p",
        class_noun="man",
        trigger="<p> man",
        rank=rank,
        alpha=6.0,
        partition=partition,
        slots=slots if axis else (),
    )


def init(info: AdapterInfo, seed: int = 0):
    masks = block_masks(info, SHAPES)
    return init_lora(jax.random.key(seed), SHAPES, masks, info.rank), masks


def outside(lora, masks) -> np.ndarray:
    """Every entry outside the masks."""
    pairs = zip(jax.tree.leaves(lora), jax.tree.leaves(masks), strict=True)
    return np.concatenate([np.asarray(x)[np.broadcast_to(mask == 0, x.shape)] for x, mask in pairs])


@pytest.mark.parametrize("axis", [*AXES, None])
def test_a_new_adapter_changes_nothing(axis):
    lora, _ = init(make_info(axis))
    for layers in lora.values():
        for pair in layers.values():
            assert not np.any(pair.lora_A @ pair.lora_B)
            assert np.any(pair.lora_A)


def test_init_depends_on_the_key_and_the_layer():
    lora, _ = init(make_info())
    again, _ = init(make_info())
    other, _ = init(make_info(), seed=1)
    jax.tree.map(np.testing.assert_array_equal, lora, again)
    first, second = lora["unet"].values()
    assert not np.array_equal(first.lora_A, second.lora_A)
    assert not np.array_equal(first.lora_A, other["unet"]["attn2/to_k"].lora_A)


def test_initial_values_are_scaled_by_the_number_of_owned_inputs():
    # Two of four slots own 6 of 12 input features, so A is uniform within 1 / sqrt(6).
    pair = init(make_info("in", rank=200))[0]["unet"]["attn2/to_k"]
    largest = np.abs(pair.lora_A).max()
    assert 0.99 / np.sqrt(6) < largest <= 1 / np.sqrt(6)


@pytest.mark.parametrize("axis", AXES)
def test_masks_have_the_tree_of_the_adapter_and_are_one_on_its_support(axis):
    info = make_info(axis)
    lora, masks = init(info)
    assert jax.tree.structure(lora) == jax.tree.structure(masks)
    for component, layers in SHAPES.items():
        for path, (n, m) in layers.items():
            rows, columns = info.support(component, path, (n, m))
            mask = masks[component][path]
            assert mask.lora_A.shape == (n, 1)
            assert mask.lora_B.shape == (1, m)
            np.testing.assert_array_equal(np.flatnonzero(mask.lora_A), rows)
            np.testing.assert_array_equal(np.flatnonzero(mask.lora_B), columns)


def test_masks_of_an_adapter_are_those_of_its_description():
    adapter = random_adapter("p", tiny_params(), slots=(1,))
    jax.tree.map(np.testing.assert_array_equal, adapter.masks(), block_masks(adapter.info, adapter.shapes()))


@pytest.mark.parametrize("axis", AXES)
def test_gradients_and_adamw_change_nothing_outside_the_masks(axis):
    lora, masks = init(make_info(axis))
    targets = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), lora)

    def loss(lora):
        masked = apply_masks(lora, masks)
        # Without the masks, the gradient outside them would be that of -x * target.
        return sum(
            jnp.sum(x * t + x * x) for x, t in zip(jax.tree.leaves(masked), jax.tree.leaves(targets), strict=True)
        )

    optimizer = optax.adamw(0.1, weight_decay=0.5)
    state = optimizer.init(lora)
    for _ in range(3):
        grads = jax.grad(loss)(lora)
        assert not outside(grads, masks).any()
        updates, state = optimizer.update(grads, state, lora)
        lora = optax.apply_updates(lora, updates)
        assert not outside(lora, masks).any()
        assert not outside(state[0].mu, masks).any()
        assert not outside(state[0].nu, masks).any()
    assert all(np.any(x) for x in jax.tree.leaves(lora))


def torch_delta(pair: LoRAPair, scale: float) -> np.ndarray:
    """dW [m, n] as PyTorch has it, in float64."""
    return scale * (pair.lora_A.astype(np.float64) @ pair.lora_B.astype(np.float64)).T


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("slots", [((0,), (1,)), ((0, 3), (1, 2))])
def test_changes_of_different_slots_are_exactly_orthogonal(axis, slots):
    partition = Partition(num_blocks=4, axis=axis, seed=5)
    one, other = (
        random_adapter(n, tiny_params(), slots=s, partition=partition) for n, s in zip("pq", slots, strict=True)
    )
    for component, layers in one.lora.items():
        for path in layers:
            dw_i, dw_j = (torch_delta(a.lora[component][path], a.info.scale) for a in (one, other))
            assert dw_i.any()
            assert dw_j.any()
            assert np.sum(dw_i * dw_j) == 0
            if axis in ("out", "grid"):
                assert not np.any(dw_i.T @ dw_j)
            if axis in ("in", "grid"):
                assert not np.any(dw_i @ dw_j.T)


def test_scale_is_alpha_over_rank():
    assert make_info(rank=4).scale == 1.5


def test_an_adapter_is_a_pytree_whose_description_is_static():
    adapter = random_adapter("p", tiny_params(), slots=(1,))
    doubled = jax.jit(lambda adapter: jax.tree.map(lambda x: 2 * x, adapter))(adapter)
    assert doubled.info == adapter.info
    assert hash(doubled.info) == hash(adapter.info)
    np.testing.assert_array_equal(doubled.tokens["<p>"], 2 * adapter.tokens["<p>"])
