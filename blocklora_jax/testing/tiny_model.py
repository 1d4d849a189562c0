"""The smallest Stable Diffusion 1.x, 2.x and SDXL that have every part: random, well-scaled weights, 16 x 16 pixels."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict
from jax.typing import DTypeLike

from blocklora_jax.checkpoints.diffusers import Checkpoint, save_folder
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.diffusion.models import Models, make_models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.models.config import TextProjectionConfig
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.testing.folders import SCHEDULER, edit_json, small_configs

WORDS = ["a", "an", "photo", "picture", "drawing", "of", "and", "in", "on", "man", "dog", "owl", "snow", "beach", "the"]
SIZE, TOKENS, TEXT_WIDTH, TEXT_WIDTH_2, POOLED = 16, 24, 32, 24, 20
SCHEDULE = Schedule.from_json(dict(SCHEDULER), "scheduler")


def tiny_configs(rows: int, levels: int = 2, family: str = "sd1") -> dict:
    """Configs by component. The token tables have `rows` rows, and the U-Net has `levels` levels, one or two."""
    small = small_configs(rows)
    wide = {"block_out_channels": (16, 32), "cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 2}
    text = {"hidden_size": TEXT_WIDTH, "intermediate_size": 48, "projection_dim": TEXT_WIDTH}
    if levels == 1:
        wide |= {"block_out_channels": (16,), "down_block_types": ("CrossAttnDownBlock2D",)}
        wide |= {"up_block_types": ("CrossAttnUpBlock2D",)}
    configs = {
        "unet": replace(small["unet"], **wide),
        "vae": replace(small["vae"], block_out_channels=(8, 16), norm_num_groups=4),
        "text_encoder": replace(small["text_encoder"], **text, num_attention_heads=2, max_position_embeddings=TOKENS),
    }
    return {"sd1": lambda c, n: c, "sd2": _like_sd2, "sdxl": _like_sdxl}[family](configs, levels)


def _like_sd2(configs: dict, levels: int) -> dict:
    unet = {"use_linear_projection": True, "upcast_attention": True, "attention_head_dim": (2, 4)[:levels]}
    text = replace(configs["text_encoder"], hidden_act="gelu", pad_token_id=0)
    return {**configs, "unet": replace(configs["unet"], **unet), "text_encoder": text}


def _like_sdxl(configs: dict, levels: int) -> dict:
    first = configs["text_encoder"]
    wide = {"hidden_size": TEXT_WIDTH_2, "projection_dim": POOLED, "hidden_act": "gelu", "num_hidden_layers": 3}
    second = TextProjectionConfig(**{**vars(first), **wide})
    unet = {
        "use_linear_projection": True,
        "upcast_attention": None,
        "attention_head_dim": (2, 4)[:levels],
        "transformer_layers_per_block": (1, 2)[-levels:],
        "cross_attention_dim": TEXT_WIDTH + TEXT_WIDTH_2,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": POOLED + 6 * 4,
    }
    if levels == 2:
        unet |= {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
        unet |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    vae = replace(configs["vae"], scaling_factor=0.13025)
    return {**configs, "unet": replace(configs["unet"], **unet), "vae": vae, "text_encoder_2": second}


def tiny_models(
    rows: int = 40, remat: bool = False, levels: int = 2, family: str = "sd1", dtype: DTypeLike = np.float32
) -> Models:
    """The Flax modules of a tiny model; see `tiny_configs`."""
    return make_models(tiny_configs(rows, levels, family), remat=remat, dtype=dtype)


@functools.cache
def tiny_params(rows: int = 40, levels: int = 2, family: str = "sd1") -> dict:
    """Parameters of `tiny_models(rows, levels=levels, family=family)`, fp32, scaled so that signals keep their size."""
    rng = np.random.default_rng(rows)
    return {part: _draw(rng, config) for part, config in tiny_configs(rows, levels, family).items()}


def _draw(rng: np.random.Generator, config) -> dict:
    shapes = sorted(param_shapes(config).items())
    return unflatten_dict({path: _leaf(rng, path, shape) for path, shape in shapes}, sep="/")


def save_tiny(
    folder: Path, family: str = "sd1", configs: dict | None = None, words: Sequence[str] = WORDS, levels: int = 2,
    **scheduler,
) -> Path:  # fmt: skip
    """Write the tiny model as a Diffusers folder, and return the folder.

    levels: see `tiny_configs`. configs: other configs, by component, for components with new random weights. words:
    those that are one token. scheduler: fields of its config.
    """
    with tempfile.TemporaryDirectory() as tokenizers:
        one, two = Path(tokenizers) / "one", Path(tokenizers) / "two"
        for path in (one, two):
            rows = write_tokenizer(path, words, max_length=TOKENS)
        if family != "sd1":
            pad_with_exclamation_marks(one if family == "sd2" else two)
        chosen = tiny_configs(rows, levels, family)
        params = tiny_params(rows, levels, family)
        if configs:
            rng = np.random.default_rng(5)
            chosen |= configs
            params = params | {part: _draw(rng, config) for part, config in configs.items()}
        prediction = {"prediction_type": "v_prediction"} if family == "sd2" else {}
        checkpoint = Checkpoint(
            name="tiny",
            configs=chosen,
            params=params,
            scheduler={**SCHEDULER, **prediction, **scheduler},
            tokenizer=one,
            tokenizer_2=two if "text_encoder_2" in chosen else None,
        )
        save_folder(folder, checkpoint)
    (folder / "blocklora.json").unlink()  # as if another program had written the folder
    return folder


def pad_with_exclamation_marks(tokenizer: Path) -> None:
    """Change the padding token to "!", as in OpenCLIP's tokenizers."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        edit_json(tokenizer / name, pad_token="!")


def _leaf(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = rng.standard_normal(shape, np.float32)
    if path.endswith("kernel"):
        return draw / np.sqrt(np.prod(shape[:-1], dtype=np.float32))
    return 1 + 0.1 * draw if path.endswith("scale") else 0.1 * draw
