"""The token side on two devices: the same step as on one, with both mappers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import call_on_devices

STEPS = 3


def trained(model: str, folder: Path, mapper: str, devices: int, rows: int = 4) -> dict[str, np.ndarray]:
    """All trained arrays and the last metrics after some steps."""
    from concept_builders import write_pictures
    from token_side_builders import token_side_config, write_basis

    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.testing.tiny_model import SCHEDULE
    from train.concept.own_directions import basis_of, step_params
    from train.concept.prepare import prepare_concept
    from train.concept.spread import Spread
    from train.concept.state import init_state, make_optimizer
    from train.concept.step import make_step

    sd = StableDiffusion.from_pretrained(model)
    changes: dict[str, Any] = {"batch": rows, "random_batch": rows, "token_side_own": "token", "warmup_steps": 0}
    images = write_pictures(folder / f"{mapper}{devices}{rows}")
    config = token_side_config(write_basis(folder / f"{mapper}{devices}{rows}.basis", sd), images=images, **changes)
    basis = basis_of(config, sd)
    concept, optimizer = prepare_concept(config, sd, basis), make_optimizer(config.optimizer, config.steps)
    spread = Spread(tuple(jax.devices()[:devices]), 1, 1, mapper)
    step = spread.map_step(
        make_step(
            sd.models, SCHEDULE, optimizer,
            adapter=config.adapter, erasure=config.erasure, loss=config.loss, token_side=config.token_side,
        )
    )  # fmt: skip
    state = spread.place_states([init_state(concept.trainable, concept.masks, optimizer, jax.random.key(0))])
    params = jax.tree.map(jnp.asarray, step_params(config, sd, basis))
    metrics: Any = {}
    for i in range(STEPS):
        state, metrics = step(state, spread.place_batches([concept.batch_at(i)]), params)
    assert float(np.asarray(metrics["token_loss"])[0]) > 0
    leaves = jax.tree_util.tree_leaves_with_path({"trainable": state.trainable, "metrics": metrics})
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    # What the token side changes. tests/train/engine/test_parallel.py compares layers; here they start at 0, where
    # Adam turns rounding of tiny gradients into differences of their size.
    return {name: leaf for name, leaf in named.items() if "token" in name}


def compare(model: str, folder: str) -> dict[str, float]:
    """The largest difference of two devices from one, relative to the largest value of each leaf."""
    assert jax.device_count() == 2
    one = trained(model, Path(folder), "shard_map", 1)
    assert len(one) == 3  # the embeddings, the loss and the ratio
    three = [trained(model, Path(folder), "shard_map", devices, rows=3) for devices in (1, 2)]
    return {
        "pmap": difference(one, trained(model, Path(folder), "pmap", 2)),
        # One of two devices has one row, and one of padding.
        "shard_map, three rows": difference(*three),
        "rows matter": difference(one, three[0]),
    }


def difference(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(one[k] - two[k]).max() / np.abs(one[k]).max()) for k in one)


@pytest.fixture(scope="module")
def differences(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return call_on_devices(2, __file__, "compare", str(tiny_folder), str(folder))


@pytest.mark.parametrize("how", ["pmap", "shard_map, three rows"])
def test_two_devices_train_as_one(differences, how):
    assert differences[how] <= 1e-5  # of each leaf's largest value
    assert differences["rows matter"] > 1e-3
