"""Measures training on the devices of this process, and prints a line of JSON. `benchmarks.devices` runs it."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.tiny_model import SIZE, save_tiny
from train.concept.config import ConceptConfig
from train.concept.own_directions import basis_of, step_params
from train.concept.prepare import prepare_concept
from train.concept.spread import Spread, spread_over
from train.concept.state import init_state, make_optimizer
from train.concept.step import make_step
from train.engine.grid import round_up

# The tiny model has no basis, and knows few words.
TINY = {
    "basis": None, "assignment": "layer", "token_side": 0.0, "token_start": "noun", "negatives_from": "nouns",
    "blocks": 4, "random_styles": ("a photo of",), "random_subjects": ("dog", "owl"), "random_scenes": ("in the snow",),
}  # fmt: skip


def prepare(sd: StableDiffusion, config: ConceptConfig, concepts: int) -> tuple[Spread, Callable[[int], None]]:
    """How `concepts` concepts are spread, and a function that makes a step of all of them and waits for it."""
    basis, rows = basis_of(config, sd), (config.optimizer.batch, config.random_rows)
    spread, concept = spread_over(jax.devices(), concepts, rows, "shard_map"), prepare_concept(config, sd, basis)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    groups = {
        "adapter": config.adapter, "erasure": config.erasure, "loss": config.loss, "token_side": config.token_side,
    }  # fmt: skip
    step = spread.map_step(make_step(sd.models, sd.schedule, optimizer, **groups))
    params = spread.place_params(step_params(config, sd, basis))
    keys = [jax.random.key(seed) for seed in range(concepts)]
    state = spread.place_states([init_state(concept.trainable, concept.masks, optimizer, key) for key in keys])

    def one(index: int) -> None:
        nonlocal state
        state, _ = step(state, spread.place_batches([concept.batch_at(index)] * concepts), params)
        jax.block_until_ready(state)

    return spread, one


def measure(sd: StableDiffusion, config: ConceptConfig, concepts: int, rounds: int) -> dict[str, Any]:
    """The row of the table. The first step compiles, and is not counted."""
    spread, step = prepare(sd, config, concepts)
    step(0)
    seconds = []
    for index in range(1, rounds + 1):
        began = time.perf_counter()
        step(index)
        seconds.append(time.perf_counter() - began)
    batch = config.optimizer.batch
    computed = round_up(concepts, spread.groups) * round_up(batch, spread.row_devices)
    return {
        "devices": len(spread.devices),
        "groups": spread.groups,
        "row_devices": spread.row_devices,
        "padding": 1 - concepts * batch / computed,
        "seconds": statistics.median(seconds),
        "concept_steps": concepts / statistics.median(seconds),
    }


def tiny_settings(folder: Path) -> dict[str, Any]:
    """A tiny random model, a picture of noise, and settings that fit them."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    (folder / "pictures").mkdir()
    Image.fromarray(pixels).save(folder / "pictures" / "0.png")
    model = save_tiny(folder / "model", levels=1)
    return TINY | {"images": folder / "pictures", "model": str(model)}


def main() -> None:
    """Measure with the settings that the command line holds as JSON: model, concepts, batch, rounds."""
    options = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        settings = {"images": Path("ada"), "model": options["model"], "batch": options["batch"]}
        if options["model"] == "tiny":
            settings |= tiny_settings(Path(folder))
        config = ConceptConfig.from_settings(token="<ada>", class_noun="man", out=Path("unused"), **settings)
        sd = StableDiffusion.from_pretrained(config.model)
        print(json.dumps(measure(sd, config, options["concepts"], options["rounds"])))


if __name__ == "__main__":
    main()
