"""The cost of erasure and of the token side, and the gain of training concepts together, in steps per second.

`python -m benchmarks.training [--quick]` measures on the pocket model. The variants run in turns, so that the ratios
are right even on a busy machine.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import ConceptConfig
from train.concept.own_directions import basis_of, step_params
from train.concept.prepare import prepare_concept
from train.concept.state import init_state, make_optimizer, stack
from train.concept.step import make_step
from train.engine.parallel import map_step, place_state

OFF = {"token_side": 0.0}
FEATURES = OFF | {"basis": None, "assignment": "layer", "token_start": "noun", "negatives_from": "nouns"}
BASE, DEFAULTS = "no erasure", "layer form and token side (the defaults)"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: OFF | {"erase": "none"},
    "layer form": OFF,
    "epsilon form": OFF | {"erase": "epsilon"},
    DEFAULTS: {},
    "layer form, text states cached": OFF | {"token_learning_rate": 0.0},
    "layer form, all attention layers": FEATURES | {"layers": "attention"},
}
TOGETHER = "the defaults, several concepts in one program"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the training step."""

    model: str = "pocket"
    batch: int = 6
    concepts: int = 5
    """Number of concepts that train in one program in the last variant."""
    rounds: int = 10
    quick: bool = False
    """Two of the variants and a few rounds, to see that the program runs."""

    def __post_init__(self) -> None:
        check_options(self)


def prepare(options: Options, sd: StableDiffusion, changes: dict[str, Any], concepts: int = 1) -> Callable[[], None]:
    """A function that runs one compiled step of a variant with `concepts` concepts, and waits for it."""
    config = ConceptConfig.from_settings(
        images=Path("ada"), token="<ada>", class_noun="woman", out=Path("unused"), batch=options.batch, **changes
    )
    basis = basis_of(config, sd)
    concept, params = prepare_concept(config, sd, basis), step_params(config, sd, basis)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    groups = {
        "adapter": config.adapter, "erasure": config.erasure, "loss": config.loss, "token_side": config.token_side,
    }  # fmt: skip
    step = map_step(make_step(sd.models, sd.schedule, optimizer, **groups), jax.devices()[:1])
    batch = jax.tree.map(lambda x: np.stack([x] * concepts), concept.batch_at(0))
    states = [init_state(concept.trainable, concept.masks, optimizer, jax.random.key(seed)) for seed in range(concepts)]
    state = place_state(stack(states), jax.devices()[:1])

    def one() -> None:
        nonlocal state
        state, _ = step(state, batch, params)
        jax.block_until_ready(state)

    one()
    return one


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    sd = StableDiffusion.from_pretrained(options.model)
    # Compiling a step takes a minute.
    names = (BASE, DEFAULTS) if options.quick else VARIANTS
    steps = {name: prepare(options, sd, VARIANTS[name]) for name in names}
    steps[TOGETHER] = prepare(options, sd, {}, options.concepts)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2 if options.quick else options.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            of_one = (time.perf_counter() - began) / (options.concepts if name == TOGETHER else 1)
            seconds[name].append(of_one)
    base = statistics.median(seconds[BASE])
    rows = {
        name: {"steps_per_second": 1 / statistics.median(s), "time_ratio": statistics.median(s) / base}
        for name, s in seconds.items()
    }
    device = jax.devices()[0]
    print(
        f"{platform.processor() or platform.machine()}, {device.device_kind}, batch {options.batch},"
        f" {options.concepts} concepts"
    )
    for name, row in rows.items():
        print(f"{name:44s} {row['steps_per_second']:8.2f} steps/s {row['time_ratio']:6.2f} x no erasure")
    print(json.dumps({"device": device.device_kind, "batch": options.batch, "variants": rows}))


if __name__ == "__main__":
    main()
