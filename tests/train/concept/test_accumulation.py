"""Gradient accumulation compared with one large batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from concept_builders import as_float64, make_batch, make_config, make_trainable, write_pictures
from token_side_builders import make_basis, token_side_config, write_basis

from blocklora_jax.diffusion.models import Models
from blocklora_jax.testing.tiny_model import SCHEDULE, tiny_models, tiny_params
from train.concept.batch import Batch
from train.concept.own_directions import step_params
from train.concept.prepare import prepare_concept
from train.concept.state import TrainState, init_state
from train.concept.step import make_step


def gradients(config, models, schedule, trainable, masks, batch: Batch, params, parts: int, devices: int = 1):
    """Metrics and gradients of one step. The optimizer does nothing but keep the gradients."""
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    optimizer = optax.GradientTransformation(zeros, lambda grads, state, params: (zeros(grads), grads))
    groups: dict[str, Any] = {
        name: getattr(config, name) for name in ("adapter", "erasure", "loss", "token_side")
    }  # fmt: skip
    step = make_step(models, schedule, optimizer, **groups, accumulate=parts)
    state = init_state(trainable, masks, optimizer, jax.random.key(3))
    split = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
    over_devices = jax.vmap(step, in_axes=(None, 0, None), axis_name="data")
    after: tuple[TrainState, dict] = jax.jit(over_devices)(state, split, params)
    one = jax.tree.map(lambda x: x[0], after)
    return one[1], jax.tree.map(np.asarray, one[0].opt_state)


@pytest.fixture(autouse=True)
def in_float64():
    """Sums in another order differ by little then, on every processor. Only the softmax stays fp32."""
    with jax.enable_x64(True):
        yield


def assert_equal(found, expected):
    for name, value in expected[0].items():
        assert value.dtype == np.float64, name
        assert float(found[0][name]) == pytest.approx(float(value), rel=1e-7), name
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected[1]))
    assert largest > 1e-4
    for x, y in zip(*map(jax.tree.leaves, (found[1], expected[1])), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-7 * largest)


def tiny_inputs(config):
    """Models, parameters, trainable parameters and masks, all in fp64."""
    models = tiny_models(levels=1, dtype=np.float64)
    return models, *as_float64((tiny_params(levels=1), *make_trainable(config)))


@pytest.mark.parametrize(
    ("erase", "layers", "weighting"),
    # The token side, below, has the form layer with layers that read only text, weighted as pictures.
    [("layer", "attention+text_encoder", "min_snr"), ("epsilon", "cross_kv", "none")],
)
def test_batches_one_after_the_other_give_the_gradient_of_the_large_batch(erase, layers, weighting):
    config = make_config(erase=erase, layers=layers, weighting=weighting, noise_offset=0.1)
    models, params, trainable, masks = tiny_inputs(config)
    # The rows have masks of different sums, and every third random row is pure noise.
    batch = as_float64(make_batch(4, 8))
    run = lambda parts: gradients(config, models, SCHEDULE, trainable, masks, batch, params, parts)
    assert_equal(run(2), run(1))


def test_a_batch_without_random_rows_accumulates_too():
    config = make_config(erase="none")
    models, params, trainable, masks = tiny_inputs(config)
    run = lambda parts: gradients(
        config, models, SCHEDULE, trainable, masks, as_float64(make_batch(4, 0)), params, parts
    )
    assert_equal(run(4), run(1))


def test_the_token_side_reads_the_mean_of_the_whole_batch(tiny_sd, tmp_path):
    """Also if the batch is spread over devices. A mean of logarithms would differ from the logarithm of the mean."""
    basis = make_basis(tiny_sd)
    file = write_basis(tmp_path / "basis.safetensors", tiny_sd, basis)
    config = token_side_config(
        file, images=write_pictures(tmp_path / "pictures"), batch=2, accumulate=4, random_batch=2, token_side=3.0
    )
    concept = prepare_concept(config, tiny_sd, basis)
    params, trainable, masks, batch = as_float64(
        (step_params(config, tiny_sd, basis), concept.trainable, concept.masks, concept.batch_at(1))
    )
    models = Models(*(module and module.clone(dtype=np.float64) for module in tiny_sd.models))
    assert len(batch.row) == len(batch.random_row) == 8
    run = lambda parts, devices=1: gradients(
        config, models, tiny_sd.schedule, trainable, masks, batch, params, parts, devices
    )
    whole = run(1)
    assert float(whole[0]["token_loss"]) > 0.1
    assert_equal(run(4), whole)
    assert_equal(run(2, devices=2), whole)


@pytest.mark.parametrize("erase", ["layer", "preserve"])
def test_the_rows_are_those_of_a_batch_that_is_larger_by_that_factor(tiny_sd, tmp_path, erase):
    changes = {"images": write_pictures(tmp_path), "erase": erase}
    large = prepare_concept(make_config(batch=6, random_batch=3, **changes), tiny_sd, None).batch_at(2)
    parts = prepare_concept(make_config(batch=2, random_batch=1, accumulate=3, **changes), tiny_sd, None).batch_at(2)
    jax.tree.map(np.testing.assert_array_equal, parts, large)
