"""The algorithms, schedules and averages of training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from concept_builders import make_config, make_trainable
from diffusers.training_utils import EMAModel

from blocklora_jax.errors import UserError
from train.concept.algorithms import make_schedule
from train.concept.averaging import average_parameters
from train.concept.config import parse_args
from train.concept.settings.flat import with_later
from train.concept.settings.optimizer import OptimizerSettings
from train.concept.state import init_state, make_optimizer

PRODIGY: dict[str, Any] = {
    "optimizer": "prodigy", "learning_rate": 1.0, "text_learning_rate": 1.0, "token_learning_rate": 1.0,
}  # fmt: skip


def distance_after(steps: int, **changes: Any) -> tuple[float, float, Any]:
    """The mean squared distance of all parameters from 0.1, before and after training towards it; and the state."""
    config = make_config(steps=steps, warmup_steps=2, layers="cross_kv", rank=8, **changes)
    trainable, masks = make_trainable(config)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = init_state(trainable, masks, optimizer, jax.random.key(0))

    def loss(trainable: Any) -> jax.Array:
        return sum(jnp.square(x - 0.1).sum() for x in jax.tree.leaves(trainable)) / 100

    @jax.jit
    def step(state: Any) -> Any:
        updates, opt_state = optimizer.update(jax.grad(loss)(state.trainable), state.opt_state, state.trainable)
        return state._replace(trainable=optax.apply_updates(state.trainable, updates), opt_state=opt_state)

    before = float(loss(state.trainable))
    for _ in range(steps):
        state = step(state)
    return before, float(loss(state.trainable)), state


@pytest.mark.parametrize(
    # Prodigy needs many steps until its step size has grown.
    ("steps", "changes"), [(40, {"optimizer": "adafactor"}), (200, PRODIGY), (40, {})]
)  # fmt: skip
def test_every_algorithm_trains_all_parameters(steps, changes):
    before, after, state = distance_after(steps, **{"token_learning_rate": 0.05, "learning_rate": 0.05, **changes})
    assert after < 0.5 * before
    # The text encoder's group has no parameters here.
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.trainable, state.opt_state)))


def test_adafactor_has_a_smaller_state():
    size = lambda **changes: sum(x.size for x in jax.tree.leaves(distance_after(1, **changes)[2].opt_state))
    assert size(optimizer="adafactor") < 0.4 * size(optimizer="adamw")


def test_rates_that_are_meant_for_adamw_are_refused_for_prodigy():
    with pytest.raises(UserError, match=r"give --learning-rate 1 --text-learning-rate 1 --token-learning-rate 1 "):
        OptimizerSettings(optimizer="prodigy")
    OptimizerSettings(**PRODIGY | {"text_learning_rate": 0.0})


@pytest.mark.parametrize(("name", "last"), [("cosine", 0.01), ("linear", 0.01), ("constant", 0.1)])
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_warm_up_and_end_where_they_should(name, last, warmup):
    rate = make_schedule(OptimizerSettings(schedule=name, warmup_steps=warmup), 0.1, 24)
    values = np.array([float(rate(step)) for step in range(25)])
    np.testing.assert_allclose(values[: warmup + 1], np.linspace(0, 0.1, warmup + 1) if warmup else 0.1, atol=1e-8)
    half = warmup + (24 - warmup) // 2
    assert values[24] == pytest.approx(last) and values[half] == pytest.approx((0.1 + last) / 2)
    assert np.all(np.diff(values[warmup:]) <= 1e-9)


@pytest.mark.parametrize("name", ["constant", "linear"])
def test_schedules_are_finite_for_one_step(name):
    rate = make_schedule(OptimizerSettings(schedule=name), 0.1, 1)
    assert float(rate(0)) == pytest.approx(0.1)


def test_the_average_is_that_of_diffusers():
    rng, decay = np.random.default_rng(0), 0.3
    parameters = rng.standard_normal(5).astype(np.float32)
    theirs = EMAModel([torch.nn.Parameter(torch.tensor(parameters))], decay=decay)
    transform = average_parameters(decay)
    state = transform.init({"x": jnp.asarray(parameters)})
    for _ in range(6):
        update = rng.standard_normal(5).astype(np.float32)
        same, state = transform.update({"x": jnp.asarray(update)}, state, {"x": jnp.asarray(parameters)})
        np.testing.assert_array_equal(same["x"], update)
        parameters = parameters + update
        theirs.step([torch.nn.Parameter(torch.tensor(parameters))])
        np.testing.assert_allclose(state.average["x"], theirs.shadow_params[0].numpy(), rtol=1e-6)  # fp32


def test_an_average_of_what_never_changes_is_the_same_bit_for_bit():
    start = {"x": jax.random.normal(jax.random.key(0), (100,))}
    transform = average_parameters(0.9)
    state = transform.init(start)
    for _ in range(5):
        _, state = transform.update({"x": jnp.zeros(100)}, state, start)
    np.testing.assert_array_equal(state.average["x"], start["x"])


def test_the_average_is_saved_and_training_does_not_read_it():
    plain, averaged = (distance_after(5, ema=ema, learning_rate=0.05)[2] for ema in (0.0, 0.9))
    jax.tree.map(np.testing.assert_array_equal, averaged.trainable, plain.trainable)
    assert plain.saved is plain.trainable
    differ = [
        np.abs(x - y).max() > 0 for x, y in zip(*map(jax.tree.leaves, (averaged.saved, plain.saved)), strict=True)
    ]
    assert all(differ)
    # Without an average the state has the same layout as before there was one.
    assert len(plain.opt_state) == 2


def test_flags_set_them_and_bounds_hold():
    flags = "--images x --token <ada> --class-noun man --out y".split()
    config = parse_args(
        [*flags, *"--optimizer adafactor --schedule linear --ema 0.9 --accumulate 3 --no-previews".split()]
    )
    chosen = config.optimizer
    assert (chosen.optimizer, chosen.schedule, chosen.ema, chosen.accumulate) == ("adafactor", "linear", 0.9, 3)
    assert not config.run.previews and config.with_settings(ema=0.0).optimizer.optimizer == "adafactor"
    for wrong in ({"ema": 1.0}, {"ema": -0.1}, {"accumulate": 0}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))} must"):
            make_config(**wrong)


def test_files_name_each_new_setting_only_if_it_is_used():
    usual = make_config().to_json()
    changes = {"accumulate": 3, "ema": 0.9, "schedule": "linear", "optimizer": "adafactor", "previews": False}
    for name, value in changes.items():
        changed = make_config(**{name: value}).to_json()
        assert changed == usual | {name: value} and name not in usual
        assert with_later(usual)[name] != value
