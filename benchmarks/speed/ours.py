"""Our side: the step of `train.concept` and the function that makes pictures, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.cases import GUIDANCE, RANK, Case
from benchmarks.speed.models import Configs, latent_side, model_configs, text_shape
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import block_masks, init_lora
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.diffusion.generate import compile_generate
from blocklora_jax.diffusion.models import Models, make_models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.text import make_size_ids
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.models.clip_text import TextOutput
from train.concept.batch import Batch
from train.concept.config import ConceptConfig
from train.concept.state import Trainable, init_state, make_optimizer, stack
from train.concept.step import make_step
from train.engine.parallel import map_step, place_state

SCHEDULE = Schedule.from_json({}, "benchmark")
# An ordinary LoRA with its text encoded beforehand, which is what the other side trains.
PLAIN = {
    "erase": "none", "token_learning_rate": 0.0, "token_side": 0.0, "basis": None, "assignment": "layer",
    "token_start": "noun", "negatives_from": "nouns", "rank": RANK, "layers": "cross_kv", "blocks": 0,
}  # fmt: skip


def prepare(case: Case) -> Callable[[], None]:
    """A function that does the work of `case` once, and waits for it."""
    configs = model_configs(case.model)
    found = {part: CONFIGS[part].from_json(values, part) for part, values in configs.items()}
    models = make_models(found, jnp.float32, case.remat)
    if case.task == "sampling":
        return _sampling(case, configs, models, {part: _weights(config) for part, config in found.items()})
    return _training(case, configs, models, {"unet": _weights(found["unet"])})


def _weights(config: Any) -> dict[str, Any]:
    """Normal weights of 1 / sqrt(inputs), so that features keep their size from layer to layer."""
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> jax.Array:
        inputs = max(1, int(np.prod(shape[:-1])))
        return jnp.asarray(rng.standard_normal(shape, np.float32) / np.float32(inputs**0.5))

    return unflatten_params({path: draw(shape) for path, shape in param_shapes(config).items()})


def _training(case: Case, configs: Configs, models: Models, params: dict[str, Any]) -> Callable[[], None]:
    config = ConceptConfig.from_settings(
        images="unread", token="<a>", class_noun="man", out="unused", batch=case.batch, **PLAIN
    )
    optimizer = make_optimizer(config.optimizer, config.steps)
    settings = {"adapter": config.adapter, "erasure": config.erasure, "loss": config.loss}
    step = map_step(make_step(models, SCHEDULE, optimizer, **settings), jax.devices()[:1])
    kernels = select_kernels(params, config.adapter.layers)
    masks = block_masks(AdapterInfo(name="a", class_noun="", trigger="", rank=RANK, alpha=1.0), kernels)
    trainable = Trainable(init_lora(jax.random.key(0), kernels, masks, RANK), *_tokens(configs))
    state = place_state(stack([init_state(trainable, masks, optimizer, jax.random.key(0))]), jax.devices()[:1])
    batch = jax.tree.map(lambda x: x[None], _batch(case, configs))

    def one() -> None:
        nonlocal state
        state, _ = step(state, batch, params)
        jax.block_until_ready(state)

    return one


def _tokens(configs: Configs) -> list[jax.Array]:
    towers = [configs[part] for part in ("text_encoder", "text_encoder_2") if part in configs]
    return [jnp.zeros((1, tower["hidden_size"])) for tower in towers]


def _batch(case: Case, configs: Configs) -> Batch:
    rng, b = np.random.default_rng(0), case.batch
    side, channels = latent_side(configs, case.size), configs["vae"]["latent_channels"]
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    pooled = configs.get("text_encoder_2", {}).get("projection_dim")
    text = lambda rows: TextOutput(normal(rows, *text_shape(configs)), None if pooled is None else normal(rows, pooled))
    return Batch(
        latents=normal(b, side, side, channels),
        weights=np.ones((b, side, side, 1), np.float32),
        row=np.arange(b, dtype=np.int32),
        random_latents=normal(0, side, side, channels),
        random_is_noise=np.zeros(0, bool),
        random_row=np.zeros(0, np.int32),
        text=text(b),
        random_text=text(0),
    )


def _sampling(case: Case, configs: Configs, models: Models, params: dict[str, Any]) -> Callable[[], None]:
    program = compile_generate(models, SCHEDULE, "ddim", case.steps, True)
    towers = () if models.text_encoder_2 is None else (2,)
    ids = jnp.ones((case.batch, *towers, text_shape(configs)[0]), jnp.int32)
    side = latent_side(configs, case.size)
    noise = np.random.default_rng(0).standard_normal(
        (case.batch, side, side, configs["vae"]["latent_channels"]), np.float32
    )
    sizes = make_size_ids(case.size, case.size, case.batch) if towers else None
    return lambda: jax.block_until_ready(program(params, ids, ids, noise, jnp.float32(GUIDANCE), sizes))
