"""A step of `train.concept` on random weights and random pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from benchmarks.accelerator.card import utilization
from benchmarks.accelerator.jax_model import configs_of, device_peak, memory_of, modules_of, random_params
from benchmarks.accelerator.rows import Rows
from benchmarks.accelerator.sizes import LENGTH, PIXELS
from benchmarks.accelerator.timing import median_seconds
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import block_masks, init_lora
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.models.clip_text import TextOutput
from train.concept.batch import Batch
from train.concept.config import ConceptConfig
from train.concept.state import Trainable, TrainState, init_state, make_optimizer, stack
from train.concept.step import make_step
from train.engine.parallel import map_step, place_batch, place_state

RANK, STEPS = 16, 5
SCHEDULE = Schedule.from_json({}, "benchmark")
# An ordinary LoRA without blocks. plain: captions are encoded beforehand, and nothing is erased, as PyTorch's step does
# it. tokens: the token's embeddings train too. layer, epsilon: with erasure in addition.
_COMMON: dict[str, Any] = {
    "images": Path("unread"), "token": "<a>", "class_noun": "man", "out": Path("unused"), "rank": RANK, "blocks": 0,
    "basis": None, "assignment": "layer", "token_side": 0.0, "token_start": "noun", "negatives_from": "nouns",
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"erase": "none", "token_learning_rate": 0.0},
    "tokens": {"erase": "none"},
    "layer": {"erase": "layer"},
    "epsilon": {"erase": "epsilon"},
}


def prepare(
    model: str, batch: int, size: str, concepts: int = 1, variant: str = "plain", attention: str = "auto",
    remat: bool = False,
) -> Callable[[], Rows]:  # fmt: skip
    """Compile the step. attention, remat: as in `train.concept`."""
    config = ConceptConfig.from_settings(**_COMMON, **VARIANTS[variant], batch=batch)
    configs, pixels = configs_of(model, size), PIXELS[size][model]
    models, params = modules_of(configs, attention, remat), random_params(configs)
    params.pop("vae")
    one = make_batch(models, params, config, pixels, variant)
    rows = place_batch(jax.tree.map(lambda x: np.stack([x] * concepts), one), jax.devices()[:1])
    state = _states(params, config, concepts)
    with ThreadPoolExecutor(2) as pool:
        # Both take long. Tracing the second begins while XLA compiles the first.
        compiled = pool.submit(lambda: _lower(models, config, jax.devices()[:1], state, rows, params).compile())
        flops = pool.submit(partial(_model_flops, configs, config, state, rows, params))
        step, needed = compiled.result(), flops.result()

    def measure() -> Rows:
        nonlocal state

        def call() -> None:
            nonlocal state
            state, _ = step(state, rows, params)

        seconds = median_seconds(call, lambda: jax.block_until_ready(state), STEPS)
        device = jax.devices()[0].device_kind
        yield {
            "measured": "training", "model": model, "pixels": pixels, "batch": batch, "concepts": concepts,
            "variant": variant, "attention": attention, "remat": remat, "device": device,
            "seconds": seconds, "steps_per_second": concepts / seconds,
            "pictures_per_second": concepts * batch / seconds,
            "flops": needed, "mfu": utilization(device, needed, seconds),
            "mib": memory_of(step), "process_peak_mib": device_peak(),
        }  # fmt: skip

    return measure


def _lower(models: Models, config: ConceptConfig, devices: Sequence[jax.Device], *arguments: Any) -> Lowered:
    """The step that `train.concept` makes, lowered for (state, batch, params)."""
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    groups = {
        "adapter": config.adapter, "erasure": config.erasure, "loss": config.loss, "token_side": config.token_side,
    }  # fmt: skip
    step: Any = map_step(make_step(models, SCHEDULE, optimizer, **groups), devices)
    return step.lower(*arguments)


def _model_flops(configs: dict[str, Any], config: ConceptConfig, *arguments: Any) -> float | None:
    """What the step computes, by XLA's count of it before optimization; None if XLA does not count.

    It counts neither within fused kernels nor within loops. So the form of the attention is the plain one. For GPUs it
    counts nothing at all. So the step is lowered for the CPU, and not compiled.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    try:
        cost: Any = _lower(modules_of(configs, "plain"), config, jax.devices("cpu")[:1], *shapes).cost_analysis()
        return float((cost[0] if isinstance(cost, list) else cost)["flops"])
    except Exception as error:  # Each platform fails in its own way, and the speed does not depend on it.
        print(f"XLA does not count operations: {error}", flush=True)
        return None


def _states(params: dict[str, Any], config: ConceptConfig, concepts: int) -> TrainState:
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    kernels = select_kernels(params, config.adapter.layers)
    masks = block_masks(AdapterInfo(name="a", class_noun="", trigger="", rank=RANK, alpha=RANK), kernels)
    towers = [part for part in ("text_encoder", "text_encoder_2") if part in params]
    tokens = [
        np.zeros((config.tokens.token_vectors, token_table(params, part).shape[1]), np.float32) for part in towers
    ]

    def start(seed: int) -> TrainState:
        trainable = Trainable(init_lora(jax.random.key(seed), kernels, masks, RANK), *map(jax.numpy.asarray, tokens))
        return init_state(trainable, masks, optimizer, jax.random.key(seed))

    return place_state(stack([start(seed) for seed in range(concepts)]), jax.devices()[:1])


def make_batch(models: Models, params: dict[str, Any], config: ConceptConfig, pixels: int, variant: str) -> Batch:
    """Random rows of one concept, as NumPy arrays."""
    rng, rows = np.random.default_rng(0), config.optimizer.batch
    side, channels = pixels // models.vae.config.downscale, models.vae.config.latent_channels
    count = config.erasure.rows(rows, config.adapter.layers)
    towers = tuple(models.text_encoders)
    most = min(token_table(params, part).shape[0] for part in towers)
    ids = rng.integers(0, most, (rows, *((2,) if len(towers) == 2 else ()), LENGTH)).astype(np.int32)
    latents = lambda n: rng.standard_normal((n, side, side, channels), np.float32)

    def text(n: int) -> TextOutput:
        normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
        states = normal(n, LENGTH, models.unet.config.cross_attention_dim)
        pooled = models.text_encoder_2 and models.text_encoder_2.config.projection_dim
        return TextOutput(states, normal(n, pooled) if pooled else None)

    return Batch(
        latents=latents(rows), weights=np.ones((rows, side, side, 1), np.float32), row=np.arange(rows, dtype=np.int32),
        random_latents=latents(count), random_is_noise=rng.random(count) < config.erasure.pure_noise,
        random_row=np.arange(rows, rows + count, dtype=np.int32),
        ids=None if variant == "plain" else ids, text=text(rows) if variant == "plain" else None,
        random_text=text(count),
    )  # fmt: skip
