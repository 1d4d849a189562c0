"""The same step on one device and on eight, with both mappers, and for several concepts."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import call_on_devices

from blocklora_jax.errors import UserError

STEPS = 3
CONFIG = {"batch": 8, "random_batch": 8, "layers": "cross_kv+text_encoder", "warmup_steps": 0}


@functools.cache
def mapped_step(mapper: str, devices: int, concepts: int):
    """The training step, mapped over `devices` devices, and its optimizer."""
    from concept_builders import make_config

    from blocklora_jax.testing.tiny_model import SCHEDULE, tiny_models
    from train.concept.state import make_optimizer
    from train.concept.step import make_step
    from train.engine.parallel import map_step

    config = make_config(**CONFIG)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    step = make_step(
        tiny_models(levels=1, dtype=np.float64),
        SCHEDULE,
        optimizer,
        adapter=config.adapter,
        erasure=config.erasure,
        loss=config.loss,
    )
    return map_step(step, jax.devices()[:devices], mapper, concepts), optimizer


def steps_of(mapper: str, devices: int, seeds: tuple[int, ...] = (0,), concepts: int = 1) -> dict:
    """All trained arrays and the last metrics after some steps. The leading axis is that of concepts."""
    from concept_builders import as_float64, make_batch, make_config, make_trainable

    from blocklora_jax.testing.tiny_model import tiny_params
    from train.concept.state import init_state, stack
    from train.engine.parallel import place_state

    step, optimizer = mapped_step(mapper, devices, concepts)
    of_seed = lambda seed: as_float64(make_trainable(make_config(**CONFIG, seed=seed)))
    states = [init_state(*of_seed(seed), optimizer, jax.random.key(seed)) for seed in seeds]
    state, params = stack(states), as_float64(tiny_params(levels=1))
    if mapper == "shard_map":
        # As it comes out of the step, so that the second one is not traced again.
        state = place_state(state, jax.devices()[:devices], concepts)
    collectives = set()
    for i in range(STEPS):
        batch = as_float64(stack([make_batch(8, 8, seed=100 * seed + i) for seed in seeds]))
        if i == 0 and concepts > 1:
            # Called from here on, so that it is traced once.
            step = step.lower(state, batch, params).compile()
            collectives |= set(re.findall(r"(?:replica_groups|source_target_pairs)=(.*?), ", step.as_text()))
        state, metrics = step(state, batch, params)
    leaves = jax.tree_util.tree_leaves_with_path({"trainable": state.trainable, "metrics": metrics})
    found = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return found | {"collectives": sorted(collectives)} if concepts > 1 else found


def difference(one: dict, other: dict) -> float:
    """The largest difference of all leaves, each relative to the largest value of the leaf."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[k] - other[k]).max() / np.abs(other[k]).max()) for k in one)


def concept(found: dict, index: int) -> dict:
    return {name: value[index] for name, value in found.items()}


def compare() -> dict[str, float | list[str]]:
    assert jax.device_count() == 8
    with jax.enable_x64(True):
        return _compare()


def _compare() -> dict[str, float | list[str]]:
    alone = steps_of("shard_map", 1)
    both = steps_of("shard_map", 8, seeds=(0, 1), concepts=2)
    return {
        "collectives": both.pop("collectives"),
        "shard_map": difference(steps_of("shard_map", 8), alone),
        "pmap": difference(steps_of("pmap", 8), alone),
        "first of two": difference(concept(both, 0), concept(alone, 0)),
        "second of two": difference(concept(both, 1), concept(steps_of("shard_map", 1, seeds=(1,)), 0)),
        "seeds differ by": difference(concept(both, 1), concept(both, 0)),
    }


@pytest.fixture(scope="module")
def found():
    return call_on_devices(8, __file__, "compare")


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_eight_devices_train_as_one_with_the_same_global_batch(found, mapper):
    assert found[mapper] <= 2e-7  # of each leaf's largest value; the softmax is fp32


@pytest.mark.parametrize("which", ["first of two", "second of two"])
def test_concepts_that_train_together_equal_each_alone(found, which):
    assert found[which] <= 2e-7  # of each leaf's largest value; the softmax is fp32
    assert found["seeds differ by"] > 0.1


def test_concepts_exchange_nothing_with_each_other(found):
    # Groups of devices in the compiled program: the first four exchange data with each other, and the last four. Newer
    # versions of jax name the axis.
    within = {"{{0,1,2,3},{4,5,6,7}}", "mesh['concept'=2,'data'=4] {'data'}"}
    assert found["collectives"]
    assert set(found["collectives"]) <= within


def test_an_unknown_mapper_is_refused():
    from train.engine.parallel import map_step

    with pytest.raises(UserError, match="unknown mapper 'xmap': choose shard_map or pmap"):
        map_step(lambda state, batch, params: (state, {}), jax.devices()[:1], "xmap")


def test_rows_that_cannot_be_split_are_named():
    from train.engine.parallel import check_rows

    check_rows(0, 8, "--batch")
    check_rows(16, 8, "--batch")
    with pytest.raises(UserError, match="--batch of 6 rows cannot be split over 8 devices: use a multiple of 8"):
        check_rows(6, 8, "--batch")


def test_a_placed_state_is_traced_once():
    from train.engine.parallel import map_step, place_state

    traces = []

    def step(state, batch, params):
        traces.append(state)
        return state + jax.lax.pmean(batch.sum(), "data") * params, {}

    devices = jax.devices()[:1]
    mapped, state = map_step(step, devices), place_state(jnp.zeros(1), devices)
    for _ in range(3):
        state, _ = mapped(state, np.ones((1, 2), np.float32), jnp.ones(()))
    assert float(state[0]) == 6.0
    assert len(traces) == 1


def test_what_is_computed_again_is_not_held_at_once():
    from train.engine.parallel import map_step

    def block(x, kernel):
        return x + jnp.tanh(x @ kernel) @ kernel.T

    def step(state, batch, kernel):
        def loss(x):
            for _ in range(8):
                x = jax.checkpoint(block)(x, kernel)
            return jnp.square(x).sum()

        return jax.grad(loss)(state + batch.mean()), {}

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 64, 16), (1, 1), (16, 4096)))
    mapped: Any = map_step(step, jax.devices()[:1])
    inner = 64 * 4096 * 4  # bytes of one block's inner result
    assert mapped.lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 4 * inner
