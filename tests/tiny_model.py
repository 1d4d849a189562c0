"""The smallest Stable Diffusion 1.x that has every part: random weights, well scaled, 16 x 16 pixels."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict
from folder_builders import SCHEDULER, small_configs

from blocklora_jax.checkpoints.diffusers import Checkpoint, save_folder
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.diffusion.generate import Models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL
from blocklora_jax.pocket.tokenizer import write_tokenizer

WORDS = ["a", "an", "photo", "picture", "drawing", "of", "and", "in", "on", "man", "dog", "owl", "snow", "beach", "the"]
SIZE, TOKENS, TEXT_WIDTH = 16, 24, 32
SCHEDULE = Schedule.from_json(dict(SCHEDULER), "scheduler")


def tiny_configs(rows: int, levels: int = 2) -> dict:
    """Configs by component; the token table has `rows` rows, the U-Net one level or two."""
    small = small_configs(rows)
    wide = {"block_out_channels": (16, 32), "cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 2}
    text = {"hidden_size": TEXT_WIDTH, "intermediate_size": 48, "projection_dim": TEXT_WIDTH}
    if levels == 1:
        wide |= {"block_out_channels": (16,), "down_block_types": ("CrossAttnDownBlock2D",)}
        wide |= {"up_block_types": ("CrossAttnUpBlock2D",)}
    return {
        "unet": replace(small["unet"], **wide),
        "vae": replace(small["vae"], block_out_channels=(8, 16), norm_num_groups=4),
        "text_encoder": replace(small["text_encoder"], **text, num_attention_heads=2, max_position_embeddings=TOKENS),
    }


def tiny_models(rows: int = 40, remat: bool = False, levels: int = 2) -> Models:
    """The three Flax modules."""
    configs = tiny_configs(rows, levels)
    unet = UNet2DConditionModel(configs["unet"], remat=remat)
    return Models(unet, AutoencoderKL(configs["vae"]), CLIPTextModel(configs["text_encoder"]))


@functools.cache
def tiny_params(rows: int = 40, levels: int = 2) -> dict:
    """Parameters of `tiny_models(rows, levels=levels)`, fp32, scaled so that signals neither die nor explode."""
    rng = np.random.default_rng(rows)
    return {
        part: unflatten_dict(
            {path: _leaf(rng, path, shape) for path, shape in sorted(param_shapes(c).items())}, sep="/"
        )
        for part, c in tiny_configs(rows, levels).items()
    }


def save_tiny(folder: Path) -> Path:
    """Write the model as a Diffusers folder; returns it."""
    with tempfile.TemporaryDirectory() as tokenizer:
        rows = write_tokenizer(tokenizer, WORDS, max_length=TOKENS)
        checkpoint = Checkpoint(
            name="tiny",
            configs=tiny_configs(rows),
            params=tiny_params(rows),
            scheduler=SCHEDULER,
            tokenizer=Path(tokenizer),
        )
        save_folder(folder, checkpoint)
    return folder


def _leaf(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = rng.standard_normal(shape, np.float32)
    if path.endswith("kernel"):
        return draw / np.sqrt(np.prod(shape[:-1], dtype=np.float32))
    return 1 + 0.1 * draw if path.endswith("scale") else 0.1 * draw
