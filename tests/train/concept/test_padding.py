"""Rows that fill up a batch: copies of real ones, which no mean counts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from concept_builders import make_batch

from blocklora_jax.adapters.erasure import epsilon_erasure, layer_erasure
from blocklora_jax.adapters.row_weights import padding_weights, weigh_rows
from blocklora_jax.adapters.token_side import counted_energies, direction_energies
from blocklora_jax.errors import UserError
from train.concept.batch import OwnPrompts
from train.concept.config import parse_args, read_yaml
from train.concept.config_files import lists_concepts, shipped_configs
from train.concept.padding import pad_batch
from train.concept.spread import spread_over
from train.engine.parallel import place_batch


def numpy_batch(rows: int, random_rows: int):
    own = OwnPrompts(np.arange(rows * 6).reshape(rows, 6), np.ones((rows, 4), bool))
    return jax.tree.map(np.asarray, make_batch(rows, random_rows))._replace(own_prompts=own)


def test_every_field_is_filled_up_with_copies_that_have_no_weight():
    batch, padded = numpy_batch(6, 10), pad_batch(numpy_batch(6, 10), 8)
    assert {len(x) for x in jax.tree.leaves((padded.latents, padded.ids, padded.own_prompts, padded.row))} == {8}
    assert {len(x) for x in jax.tree.leaves((padded.random_ids, padded.random_tokens, padded.random_row))} == {16}
    np.testing.assert_array_equal(padded.latents, batch.latents[[0, 1, 2, 3, 4, 5, 0, 1]])
    np.testing.assert_array_equal(padded.random_row[10:], batch.random_row[:6])
    np.testing.assert_array_equal(np.asarray(padded.row_weights) > 0, np.arange(8) < 6)
    np.testing.assert_array_equal(np.asarray(padded.random_row_weights) > 0, np.arange(16) < 10)


def test_a_batch_that_needs_no_padding_is_left_as_it_is():
    batch = numpy_batch(6, 24)
    assert pad_batch(batch, 3) is batch
    padded = pad_batch(batch, 4)
    assert padded.row_weights is not None
    assert padded.random_row_weights is None
    assert pad_batch(numpy_batch(6, 0), 6).random_row_weights is None


def with_padding(values: Any, padded: int, axis: int = 0) -> jax.Array:
    return jnp.take(jnp.asarray(values), np.arange(padded) % values.shape[axis], axis)


def test_means_are_over_the_rows_that_count():
    rng, weights = np.random.default_rng(0), padding_weights(6, 8)
    errors = rng.standard_normal(6).astype(np.float32)
    # 1e-6: the weights 8/6 and the sums are rounded to fp32.
    np.testing.assert_allclose(weigh_rows(with_padding(errors, 8), weights).mean(), errors.mean(), rtol=1e-6)
    energies = jnp.asarray(rng.random((3, 6), np.float32))
    padded = with_padding(energies, 8, axis=1)
    np.testing.assert_allclose(layer_erasure(padded, weights), layer_erasure(energies), rtol=1e-6)
    adapted, base = jnp.asarray(rng.standard_normal((2, 6, 4, 4, 2)).astype(np.float32))
    padded = with_padding(adapted, 8), with_padding(base, 8)
    np.testing.assert_allclose(epsilon_erasure(*padded, weights), epsilon_erasure(adapted, base), rtol=1e-6)


def test_the_energies_of_the_token_side_are_over_the_prompts_that_count():
    rng, weights = np.random.default_rng(0), padding_weights(3, 4)
    states, whitened = jnp.asarray(rng.standard_normal((3, 5, 4), np.float32)), np.eye(4, dtype=np.float32)
    start, counted = np.array([1, 2, 3]), np.tri(5, dtype=bool)[:3]
    padded = [with_padding(x, 4) for x in (states, start, counted)]
    onward = direction_energies(padded[0], padded[1], whitened, weights)
    np.testing.assert_allclose(onward, direction_energies(states, start, whitened), rtol=1e-6)
    at_token = counted_energies(padded[0], padded[2], whitened, weights)
    np.testing.assert_allclose(at_token, counted_energies(states, counted, whitened), rtol=1e-6)


CONFIGS = [name for name, path in shipped_configs().items() if not lists_concepts(read_yaml(path))]


@pytest.mark.parametrize("concepts", [1, 2, 7])
@pytest.mark.parametrize("name", CONFIGS)
def test_one_to_eight_devices_share_the_rows_of_every_shipped_configuration(name, concepts):
    flags = ["--images", "ada", "--token", "<ada>", "--class-noun", "man", "--out", "run"]
    config = parse_args(["--config", name, *flags])
    rows = config.optimizer.batch, config.random_rows
    assert all(rows)
    for count in (1, 2, 3, 4, 8):
        devices = jax.devices()[:1] * count
        for mapper in ("shard_map", "pmap"):
            spread = spread_over(devices, concepts, rows, mapper)
            padded = pad_batch(numpy_batch(*rows), spread.row_devices)
            for real, numbers, weights in zip(
                rows, (padded.row, padded.random_row), (padded.row_weights, padded.random_row_weights), strict=True
            ):
                assert len(numbers) % spread.row_devices == 0
                assert np.count_nonzero(np.ones(real) if weights is None else weights) == real
            assert bool(spread.padding_note(rows[0])) == (padded.row_weights is not None)


def test_the_note_says_what_padding_costs():
    devices = jax.devices()[:1] * 8
    assert spread_over(devices, 1, (6, 24), "shard_map").padding_note(6) == (
        "8 devices share --batch 6: 2 of 8 rows are padding, which counts for nothing; --batch 8 takes as long"
    )


def test_rows_that_were_not_padded_are_named():
    devices = jax.devices()[:1] * 4
    with pytest.raises(UserError, match="a batch of 6 rows cannot be split over 4 devices: use a multiple of 4"):
        place_batch(np.zeros((1, 6, 2)), devices)
