"""The programs whose memory is measured, lowered at full size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.stages import Lowered

from benchmarks.memory.full_size import LENGTH, FullSize
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import block_masks, init_lora
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.diffusion.generate import compile_generate
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.models.clip_text import TextOutput
from train.concept.batch import Batch, OwnPrompts
from train.concept.config import ConceptConfig
from train.concept.own_directions import ARRAYS, TokenSideArrays
from train.concept.state import Trainable, init_state, make_optimizer, stack
from train.concept.step import make_step
from train.engine.parallel import map_step

SCHEDULE = Schedule.from_json({}, "benchmark")


def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
    """An array that is not there."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def training_step(model: FullSize, batch: int, config: ConceptConfig) -> Lowered:
    """One step of `train.concept`. config: of a concept with a basis or without; its pictures are not read."""
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    groups = {
        "adapter": config.adapter, "erasure": config.erasure, "loss": config.loss, "token_side": config.token_side,
    }  # fmt: skip
    step = map_step(make_step(model.models, SCHEDULE, optimizer, **groups), jax.devices()[:1])
    state = jax.eval_shape(lambda: _state(model, config, optimizer))
    rows = jax.tree.map(lambda x: shape(1, *x.shape, dtype=x.dtype), _batch(model, batch, config))
    return step.lower(state, rows, _step_params(model, config))


def _state(model: FullSize, config: ConceptConfig, optimizer: Any) -> Any:
    """The state of an adapter without blocks, which is the largest."""
    kernels, rank = select_kernels(model.params, config.adapter.layers), config.adapter.rank
    masks = block_masks(AdapterInfo(name="a", class_noun="", trigger="", rank=rank, alpha=1.0), kernels)
    widths = [token_table(model.params, part).shape[1] for part in model.models.text_encoders]
    tokens = [jnp.zeros((config.tokens.token_vectors, width)) for width in widths]
    trainable = Trainable(init_lora(jax.random.key(0), kernels, masks, rank), *tokens)
    return stack([init_state(trainable, masks, optimizer, jax.random.key(0))])


def _batch(model: FullSize, rows: int, config: ConceptConfig) -> Batch:
    channels, count = model.models.vae.config.latent_channels, config.erasure.rows(rows, config.adapter.layers)
    towers = len(model.models.text_encoders)
    ids = (LENGTH,) if towers == 1 else (towers, LENGTH)
    is_on, pooled = config.token_side.is_on, model.pooled_width
    return Batch(
        latents=shape(rows, model.side, model.side, channels),
        weights=shape(rows, model.side, model.side, 1),
        row=shape(rows, dtype=jnp.int32),
        random_latents=shape(count, model.side, model.side, channels),
        random_is_noise=shape(count, dtype=jnp.bool_),
        random_row=shape(count, dtype=jnp.int32),
        ids=shape(rows, *ids, dtype=jnp.int32),
        random_text=TextOutput(
            shape(count, LENGTH, model.text_width), None if pooled is None else shape(count, pooled)
        ),
        own_prompts=OwnPrompts(
            shape(rows, *ids, dtype=jnp.int32), shape(rows, model.text_width, dtype=jnp.bool_)
        ) if is_on else None,
    )  # fmt: skip


def _step_params(model: FullSize, config: ConceptConfig) -> dict[str, Any]:
    if not config.token_side.is_on:
        return model.params
    natural = {part: shape() for part in model.models.text_encoders}
    return {**model.params, ARRAYS: TokenSideArrays(shape(model.text_width, model.text_width), natural)}


def sampling(model: FullSize, batch: int, steps: int = 30) -> Lowered:
    """Pictures by DDIM with guidance, decoded."""
    program = compile_generate(model.models, SCHEDULE, "ddim", steps, True)
    towers = len(model.models.text_encoders)
    ids = shape(batch, *((LENGTH,) if towers == 1 else (towers, LENGTH)), dtype=jnp.int32)
    latents = shape(batch, model.side, model.side, model.models.vae.config.latent_channels)
    sizes = shape(batch, 6) if model.pooled_width else None
    return program.lower(model.params, ids, ids, latents, shape(), sizes)
