"""The token side on two devices: the same step as on one, with both mappers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import call_on_devices

STEPS = 3


def compare(model: str, folder: str) -> dict[str, float]:
    """The largest difference of two devices from one, relative to the largest value of each leaf."""
    from concept_builders import write_pictures
    from token_side_builders import token_side_config, write_basis

    from blocklora_jax.pipeline import StableDiffusion
    from train.concept.own_directions import basis_of, step_params
    from train.concept.prepare import prepare_concept

    assert jax.device_count() == 2
    sd = StableDiffusion.from_pretrained(model)
    # Of three rows on two devices, one device has one and one of padding.
    changes: dict[str, Any] = {"batch": 3, "random_batch": 3, "token_side_own": "token", "warmup_steps": 0}
    images = write_pictures(Path(folder) / "pictures")
    config = token_side_config(write_basis(Path(folder) / "basis", sd), images=images, **changes)
    basis = basis_of(config, sd)
    concept, params = prepare_concept(config, sd, basis), jax.tree.map(jnp.asarray, step_params(config, sd, basis))
    trained = partial(_trained, concept, params)
    on_one = _step(config, sd, "shard_map", 1)
    one = trained(*on_one)
    assert len(one) == 3  # the embeddings, the loss and the ratio
    return {
        "pmap": difference(one, trained(*_step(config, sd, "pmap", 2))),
        "shard_map": difference(one, trained(*_step(config, sd, "shard_map", 2))),
        "rows matter": difference(one, trained(*on_one, first=1)),
    }


def _step(config: Any, sd: Any, mapper: str, devices: int) -> tuple[Any, Any, Any]:
    """The devices, the optimizer, and the step on them."""
    from blocklora_jax.testing.tiny_model import SCHEDULE
    from train.concept.spread import Spread
    from train.concept.state import make_optimizer
    from train.concept.step import make_step

    spread = Spread(tuple(jax.devices()[:devices]), 1, 1, mapper)
    optimizer = make_optimizer(config.optimizer, config.steps)
    step = make_step(
        sd.models, SCHEDULE, optimizer,
        adapter=config.adapter, erasure=config.erasure, loss=config.loss, token_side=config.token_side,
    )  # fmt: skip
    return spread, optimizer, spread.map_step(step)


def _trained(
    concept: Any, params: Any, spread: Any, optimizer: Any, step: Any, first: int = 0
) -> dict[str, np.ndarray]:
    """All trained arrays and the last metrics after some steps. first: the number of the first batch."""
    from train.concept.state import init_state

    state = spread.place_states([init_state(concept.trainable, concept.masks, optimizer, jax.random.key(0))])
    metrics: Any = {}
    for i in range(first, first + STEPS):
        state, metrics = step(state, spread.place_batches([concept.batch_at(i)]), params)
    assert float(np.asarray(metrics["token_loss"])[0]) > 0
    leaves = jax.tree_util.tree_leaves_with_path({"trainable": state.trainable, "metrics": metrics})
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    # What the token side changes. tests/train/engine/test_parallel.py compares layers; here they start at 0, where
    # Adam turns rounding of tiny gradients into differences of their size.
    return {name: leaf for name, leaf in named.items() if "token" in name}


def difference(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(one[k] - two[k]).max() / np.abs(one[k]).max()) for k in one)


@pytest.fixture(scope="module")
def differences(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return call_on_devices(2, __file__, "compare", str(tiny_folder), str(folder))


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_two_devices_train_as_one(differences, how):
    assert differences[how] <= 1e-5  # of each leaf's largest value
    assert differences["rows matter"] > 1e-3
