"""The token side on two devices: the same step as on one, with both mappers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT, STEPS = Path(__file__).parents[3], 3


def trained(model: str, folder: Path, mapper: str, devices: int) -> dict[str, np.ndarray]:
    """All trained arrays and the last metrics after some steps."""
    from concept_builders import write_pictures
    from token_side_builders import token_side_config, write_basis

    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.testing.tiny_model import SCHEDULE
    from train.concept.own_directions import basis_of, step_params
    from train.concept.prepare import prepare_concept
    from train.concept.state import init_state, make_optimizer, stack
    from train.concept.step import make_step
    from train.engine.parallel import map_step

    sd = StableDiffusion.from_pretrained(model)
    changes: dict[str, Any] = {"batch": 4, "random_batch": 4, "token_side_own": "token", "warmup_steps": 0}
    images = write_pictures(folder / f"{mapper}{devices}")
    config = token_side_config(write_basis(folder / f"{mapper}{devices}.basis", sd), images=images, **changes)
    basis = basis_of(config, sd)
    concept, optimizer = prepare_concept(config, sd, basis), make_optimizer(config.optimizer, config.steps)
    step = map_step(
        make_step(
            sd.models, SCHEDULE, optimizer,
            adapter=config.adapter, erasure=config.erasure, loss=config.loss, token_side=config.token_side,
        ),
        jax.devices()[:devices],
        mapper,
    )  # fmt: skip
    state = stack([init_state(concept.trainable, concept.masks, optimizer, jax.random.key(0))])
    params = jax.tree.map(jnp.asarray, step_params(config, sd, basis))
    metrics: Any = {}
    for i in range(STEPS):
        state, metrics = step(state, stack([concept.batch_at(i)]), params)
    assert float(np.asarray(metrics["token_loss"])[0]) > 0
    leaves = jax.tree_util.tree_leaves_with_path({"trainable": state.trainable, "metrics": metrics})
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    # What the token side changes. tests/train/engine/test_parallel.py compares layers; here they start at 0, where
    # Adam turns rounding of tiny gradients into differences of their size.
    return {name: leaf for name, leaf in named.items() if "token" in name}


def compare(model: str, folder: str) -> dict[str, float]:
    """By mapper, the largest difference of two devices from one, relative to the largest value of each leaf."""
    assert jax.device_count() == 2
    one, differences = trained(model, Path(folder), "shard_map", 1), {}
    assert len(one) == 3  # the embeddings, the loss and the ratio
    for mapper in ("shard_map", "pmap"):
        two = trained(model, Path(folder), mapper, 2)
        differences[mapper] = max(float(np.abs(one[k] - two[k]).max() / np.abs(one[k]).max()) for k in one)
    return differences


@pytest.fixture(scope="module")
def differences(tiny_folder, tmp_path_factory):
    folders = [ROOT, ROOT / "tests", Path(__file__).parent]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    arguments = json.dumps([str(tiny_folder), str(tmp_path_factory.mktemp("devices"))])
    code = f"import json, test_token_side_devices as t; print(json.dumps(t.compare(*{arguments})))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_two_devices_train_as_one(differences, mapper):
    assert differences[mapper] <= 1e-5  # of each leaf's largest value
