"""Any number of rows and of concepts on any number of devices: the same steps as on one device."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from forced_devices import call_on_devices

STEPS, ROWS, RANDOM_ROWS = 3, 6, 10
CONFIG = {"batch": ROWS, "random_batch": RANDOM_ROWS, "layers": "cross_kv+text_encoder"}
# Adam divides each gradient by its size, and so makes rounding of one that is nearly 0 as large as any other step.
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3, momentum=0.9))


def make_spread(mapper: str, devices: int, concepts: int, groups: int, accumulate: int = 1):
    from train.concept.spread import Spread

    return Spread(tuple(jax.devices()[:devices]), concepts, groups, mapper, accumulate)


@functools.cache
def mapped_step(erase: str, mapper: str, devices: int, concepts: int, groups: int, accumulate: int):
    """The training step for so many concepts on so many devices."""
    from concept_builders import make_config

    from blocklora_jax.testing.tiny_model import SCHEDULE, tiny_models
    from train.concept.step import make_step

    config = make_config(**CONFIG, erase=erase)
    step = make_step(
        tiny_models(levels=1, dtype=np.float64), SCHEDULE, OPTIMIZER, adapter=config.adapter, erasure=config.erasure,
        loss=config.loss, accumulate=accumulate,
    )  # fmt: skip
    return make_spread(mapper, devices, concepts, groups).map_step(step)


def steps_of(
    seeds: tuple[int, ...], devices: int, groups: int = 1, mapper: str = "shard_map", erase: str = "layer",
    accumulate: int = 1,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """All trained arrays and the last metrics of the concepts with these seeds, after some steps."""
    from concept_builders import as_float64, make_batch, make_config, make_trainable

    from blocklora_jax.testing.tiny_model import tiny_params
    from train.concept.state import init_state

    spread = make_spread(mapper, devices, len(seeds), groups, accumulate)
    step = mapped_step(erase, mapper, devices, len(seeds), groups, accumulate)
    of_seed = lambda seed: make_trainable(make_config(**CONFIG, erase=erase, seed=seed))
    state = spread.place_states(
        [init_state(*as_float64(of_seed(seed)), OPTIMIZER, jax.random.key(seed)) for seed in seeds]
    )
    params, metrics = spread.place_params(as_float64(tiny_params(levels=1))), {}
    for i in range(STEPS):
        batches = [
            jax.tree.map(np.asarray, as_float64(make_batch(ROWS, RANDOM_ROWS, seed=100 * seed + i))) for seed in seeds
        ]
        state, metrics = step(state, spread.place_batches(batches), params)
    state = spread.without_copies(state)
    leaves = jax.tree_util.tree_leaves_with_path({"trainable": state.trainable, "metrics": metrics})
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return [{name: leaf[i] for name, leaf in named.items()} for i in range(len(seeds))]


def difference(one: dict, other: dict) -> float:
    """The largest difference of all leaves, each relative to the largest value of the leaf."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[k] - other[k]).max() / np.abs(other[k]).max()) for k in one)


def compare() -> dict[str, float]:
    """The largest difference from training on one device, by the way in which eight devices are used."""
    assert jax.device_count() == 8
    with jax.enable_x64(True):
        return _compare()


def _compare() -> dict[str, float]:
    seeds = tuple(range(7))
    alone = [steps_of((seed,), 1)[0] for seed in seeds]
    worst = lambda found: max(map(difference, found, alone))
    return {
        "rows over 8": worst(steps_of(seeds[:1], 8, mapper="pmap")),
        "2 x 4": worst(steps_of(seeds[:2], 8, groups=2)),
        "7 concepts over 8": worst(steps_of(seeds, 8, groups=8)),
        # Six rows in two parts over four devices: two of eight are padding.
        "epsilon, rows over 4, in two parts": difference(
            steps_of((0,), 4, erase="epsilon", accumulate=2)[0], steps_of((0,), 1, erase="epsilon")[0]
        ),
        "seeds differ by": difference(alone[0], alone[1]),
    }


@pytest.fixture(scope="module")
def found():
    return call_on_devices(8, __file__, "compare")


@pytest.mark.parametrize("how", ["rows over 8", "2 x 4", "7 concepts over 8", "epsilon, rows over 4, in two parts"])
def test_six_rows_train_on_eight_devices_as_on_one(found, how):
    assert found[how] <= 2e-7  # of each leaf's largest value; the softmax is fp32
    assert found["seeds differ by"] > 0.1


def continue_elsewhere(folder: str) -> list[list[int]]:
    """What is read from a checkpoint of seven concepts on eight devices: on one device, and on eight again."""
    from train.concept.state import Trainable, TrainState
    from train.engine.checkpoint import Checkpoints

    def state_of(concept: int) -> TrainState:
        trainable = Trainable({}, jnp.full((1, 1), concept, jnp.float32))
        return TrainState(jnp.int32(1), jax.random.key(concept), {}, trainable, {})

    checkpoints, restored = Checkpoints(Path(folder)), []
    many, one = make_spread("shard_map", 8, 7, 8), make_spread("shard_map", 1, 7, 1)
    placed = many.place_states([state_of(i) for i in range(7)])
    checkpoints.save(1, many.without_copies(placed))
    for spread in (one, many):
        like = spread.without_copies(spread.place_states([state_of(0)] * 7))
        state = spread.with_copies(checkpoints.restore(like)[1])
        restored.append(np.asarray(state.trainable.tokens)[:, 0, 0].astype(int).tolist())
    assert state.step.sharding == placed.step.sharding
    return restored


def test_a_checkpoint_has_no_copies_and_another_number_of_devices_continues_it(tmp_path):
    one, many = call_on_devices(8, __file__, "continue_elsewhere", str(tmp_path))
    assert one == [0, 1, 2, 3, 4, 5, 6]
    assert many == [0, 1, 2, 3, 4, 5, 6, 6]


def test_metrics_leave_out_the_copies_of_the_last_concept():
    from train.concept.batch_training import summarise

    found = summarise({"diffusion_loss": jnp.array([1.0, 3.0, 3.0, 3.0])}, ["ada", "rex"])
    assert {name: float(value) for name, value in found.items()} == {
        "diffusion_loss": 2.0, "diffusion_loss/ada": 1.0, "diffusion_loss/rex": 3.0,
    }  # fmt: skip
