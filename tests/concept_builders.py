"""Small pictures, settings and batches for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import block_masks, init_lora
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.layouts.low_rank import LoRATree
from blocklora_jax.testing.tiny_model import TEXT_WIDTH, tiny_params
from train.concept.batch import Batch
from train.concept.config import ConceptConfig
from train.concept.data import ConceptData, make_batches
from train.concept.state import Trainable

ROWS = 40  # of the token table, in tests without a tokenizer
VECTORS = 2


def write_pictures(folder: Path, count: int = 3, size: tuple[int, int] = (20, 16)) -> Path:
    """`count` PNGs of noise, `0.png` …; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


# Blocks of the features, which need no basis file.
FEATURE_BLOCKS: dict[str, Any] = {
    "basis": None, "assignment": "layer", "token_side": 0.0, "token_start": "noun", "negatives_from": "nouns",
    "erase_weight": 1.0, "learning_rate": 4e-3,
}  # fmt: skip


def settings(**changes: Any) -> dict[str, Any]:
    """Settings of a short run on the tiny model, with blocks of the features."""
    return FEATURE_BLOCKS | {
        "images": Path("pictures"), "token": "<ada>", "class_noun": "man", "out": Path("run"), "model": "tiny",
        "rank": 2, "blocks": 4, "slot": (1,), "steps": 4, "batch": 2, "warmup_steps": 1, "log_every": 1,
        "save_every": 2,
        "preview_every": 0, "preview_prompts": ("a photo of <ada> man",),
        "random_styles": ("a photo of", "a drawing of"),
        "random_subjects": ("dog", "owl"), "random_scenes": ("in the snow", "on the beach"), **changes,
    }  # fmt: skip


def make_config(**changes: Any) -> ConceptConfig:
    return ConceptConfig.from_settings(**settings(**changes))


def batches_of(config: ConceptConfig, data: ConceptData) -> Callable[[int], Batch]:
    return make_batches(data, config.optimizer.rows, config.random_rows, config.erasure, config.run.seed)


def as_flags(values: dict[str, Any]) -> list[str]:
    """Settings as command-line flags."""
    flags = []
    for name, value in values.items():
        flag = "lambda" if name == "erase_weight" else name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return flags


def make_trainable(config: ConceptConfig, levels: int = 1, started: bool = True) -> tuple[Trainable, LoRATree]:
    """Trainable parameters and their masks. started: parameters as after some steps, not as before the first."""
    params = tiny_params(levels=levels)
    partition = Partition(num_blocks=config.adapter.blocks, axis=config.adapter.axis) if config.adapter.blocks else None
    info = AdapterInfo(
        name="ada", class_noun="man", trigger="<ada> man", rank=config.adapter.rank, alpha=3.0, partition=partition,
        slots=(config.adapter.slot or ()) if partition else (),
    )  # fmt: skip
    shapes = select_kernels(params, config.adapter.layers)
    masks = block_masks(info, shapes)
    lora = init_lora(jax.random.key(config.run.seed), shapes, masks, config.adapter.rank)
    if started:
        keys = iter(jax.random.split(jax.random.key(5), 999))
        lora = jax.tree.map(lambda x, mask: mask * 0.3 * jax.random.normal(next(keys), x.shape), lora, masks)
    tokens = jax.random.normal(jax.random.key(6 + config.run.seed), (config.tokens.token_vectors, TEXT_WIDTH))
    return Trainable(lora, tokens), masks


def make_batch(rows: int, random_rows: int, seed: int = 0) -> Batch:
    """A batch of noise. Its prompts have the concept's token (ids 40, 41), every second random one a negative token."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, ROWS, (rows + random_rows, 6)).astype(np.int32)
    ids[:rows, 2:4] = [ROWS, ROWS + 1]
    ids[rows::2, 1:3] = [ROWS + VECTORS, ROWS + VECTORS + 1]
    negative_tokens = random_rows, VECTORS, TEXT_WIDTH
    return Batch(
        latents=jnp.asarray(rng.standard_normal((rows, 8, 8, 4), np.float32)),
        weights=jnp.asarray(rng.uniform(0.1, 1, (rows, 8, 8, 1)).astype(np.float32)),
        row=jnp.arange(rows, dtype=jnp.int32),
        random_latents=jnp.asarray(rng.standard_normal((random_rows, 8, 8, 4), np.float32)),
        random_is_noise=jnp.asarray(np.arange(random_rows) % 3 == 1),
        random_row=jnp.arange(rows, rows + random_rows, dtype=jnp.int32),
        ids=jnp.asarray(ids[:rows]),
        random_ids=jnp.asarray(ids[rows:]),
        # As large as the entries of the tiny model's table.
        random_tokens={"text_encoder": jnp.asarray(rng.normal(0, 0.1, negative_tokens), jnp.float32)},
    )


def as_float64(tree: Any) -> Any:
    """`tree` with fp64 in place of fp32, within `jax.enable_x64`: rounding is small beside any other difference.

    The softmax of attention stays fp32.
    """
    widen = lambda x: x.astype(np.float64) if x.dtype == np.float32 else x
    return jax.tree.map(lambda x: widen(jnp.asarray(x)), tree)
