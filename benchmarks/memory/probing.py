"""The probes of `merge fit`, `merge convert` and `merge check`, and `merge tune`, lowered at full size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from benchmarks.memory.full_size import LENGTH, FullSize
from benchmarks.memory.programs import SCHEDULE, shape
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.diffusion.text import add_sizes
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion import group_probes
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.crosstalk import crosstalk_probe
from blocklora_jax.probing.input_statistics import input_groups
from blocklora_jax.probing.probe import Probe
from blocklora_jax.probing.tuned_token import Goal, TuningConfig, run_tuning

# Every attention, feed-forward and projection layer, and all text encoders.
LAYERS, RANK = "full+text_encoder", 16
PARTITION = Partition(num_blocks=16)


def fit_step(model: FullSize, memory: float | None) -> Lowered:
    """The U-Net's step in a joint fit of two adapters, for the middle one of the groups of layers."""
    adapter = _adapter(model)
    groups = list(input_groups(_pipeline(model), [adapter, adapter], words_for(""), memory=memory))
    return _lower(model, groups[len(groups) // 2].probe, adapter, None)


def convert_step(model: FullSize, memory: float | None) -> Lowered:
    """The U-Net's step in a conversion into blocks of inputs, for the middle one of the groups of layers."""
    adapter = _adapter(model)
    info = AdapterInfo(name="a", class_noun="", trigger="", rank=RANK, alpha=1.0, partition=PARTITION, slots=(0,))
    probes = list(group_probes(_pipeline(model), adapter, info, ConversionConfig(), memory))
    return _lower(model, probes[len(probes) // 2][0], adapter, probes[len(probes) // 2][1])


def check_step(model: FullSize, memory: float | None) -> Lowered:
    """The U-Net's step in measuring the crosstalk of two adapters."""
    adapter = _adapter(model)
    probe, pairs = crosstalk_probe(_pipeline(model), [adapter, adapter], 4, 8, memory)
    return _lower(model, probe, adapter, pairs)


def tuning(model: FullSize, memory: float | None) -> Lowered:
    """The tuning of one token beside others, all steps. memory: it has no such setting."""
    config, width, towers = TuningConfig(), model.text_width, model.models.text_encoders
    length = model.models.text_encoder.config.max_position_embeddings
    of_prompts = config.prompts, length
    goal = Goal(
        ids=shape(config.prompts, *([2] if len(towers) == 2 else []), length, dtype=jnp.int32),
        wanted=shape(*of_prompts, width), counted=shape(length),
        pooled=None if model.pooled_width is None else shape(config.prompts, model.pooled_width),
        root=shape(width, width), unit=shape(), along=shape(*of_prompts, width), base=shape(*of_prompts),
        own=shape(*of_prompts),
    )  # fmt: skip
    token = {part: shape(1, tower.config.hidden_size) for part, tower in towers.items()}
    rows = shape(config.steps, config.chunk, dtype=jnp.int32)
    return run_tuning.lower(model.models, config, {part: model.params[part] for part in towers}, token, goal, rows)


def _pipeline(model: FullSize) -> StableDiffusion:
    """A pipeline without checkpoint and tokenizer, which are not read: making one would need them."""
    pipeline = object.__new__(StableDiffusion)
    vars(pipeline).update(models=model.models, schedule=SCHEDULE, params=model.params, weights_dtype=None)
    return pipeline


def _adapter(model: FullSize) -> Adapter:
    """An adapter without blocks, all zero: NumPy takes no memory for it before it is used."""
    lora = {
        component: {
            path: LoRAPair(np.zeros((n, RANK), np.float32), np.zeros((RANK, m), np.float32))
            for path, (n, m) in kernels.items()
        }
        for component, kernels in select_kernels(model.params, LAYERS).items()
    }
    info = AdapterInfo(name="a", class_noun="dog", trigger="sks dog", rank=RANK, alpha=1.0)
    return Adapter(lora=lora, tokens={}, info=info)


def _lower(model: FullSize, probe: Probe, adapter: Adapter, context: Any) -> Lowered:
    rows = probe.at_once or probe.chunk
    states, added = shape(rows, LENGTH, model.text_width), []
    if model.pooled_width is not None:
        pooled = TextOutput(states, shape(rows, model.pooled_width))
        added = [jax.eval_shape(add_sizes, pooled, shape(rows, 6))]
    latents = shape(rows, model.side, model.side, model.models.vae.config.latent_channels)
    return probe.unet_step.lower(
        model.params["unet"], adapter.lora["unet"], shape(), context, latents, shape(rows, dtype=jnp.int32), states,
        *added,
    )  # fmt: skip
