"""A random Diffusers folder of any size. It is written tensor by tensor, so that memory never holds a model twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.model_index import make_model_index
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.checkpoints.weights import STEMS, cast_tensors
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.pocket.tokenizer import write_tokenizer

PUBLISHED = Path(__file__).parent / "published"
SHARD_BYTES = 1 << 30
WORDS = ["a", "photo", "of", "man", "dog", "in", "the", "snow", "on", "beach"]
PROMPTS = ["a photo of a man on the beach", "a dog in the snow"]
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
# The values that `small` changes in a config: all widths are small, and everything else is kept.
SMALL = {
    "unet": {"block_out_channels": [32, 64, 64, 64], "norm_num_groups": 8, "attention_head_dim": [2, 4, 4, 4]},
    "vae": {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8},
    "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
    "text_encoder_2": {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
}


def read_configs(model: str, small: bool = False) -> dict[str, dict[str, Any]]:
    """The published `config.json` of each component of "sd15", "sd21" or "sdxl", or those of a similar small model."""
    folder = PUBLISHED / model
    raw = {part: json.loads((folder / f"{part}.json").read_text()) for part in CONFIGS if _exists(folder, part)}
    if not small:
        return raw
    for part, config in raw.items():
        levels = len(config.get("block_out_channels", ()))
        config |= {name: v[:levels] if isinstance(v, list) else v for name, v in SMALL[part].items()}
    towers = [config["hidden_size"] for part, config in raw.items() if part.startswith("text")]
    raw["unet"]["cross_attention_dim"] = sum(towers)
    if len(towers) == 2:
        raw["text_encoder_2"]["projection_dim"] = 40
        raw["unet"] |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 40 + 6 * 8}
        raw["unet"]["transformer_layers_per_block"] = [1, 2, 3]
    return raw


def write_model(folder: Path, model: str, dtype: str = "float16", small: bool = False) -> int:
    """Write a random model as a sharded Diffusers folder. Gives its number of parameters."""
    raw, count = read_configs(model, small), 0
    for seed, (part, config) in enumerate(raw.items()):
        write_json(folder / part / "config.json", config)
        count += _write_weights(folder / part, part, CONFIGS[part].from_json(config, part), dtype, seed)
    is_xl = "text_encoder_2" in raw
    for name in ("tokenizer", "tokenizer_2")[: 1 + is_xl]:
        write_tokenizer(folder / name, WORDS, max_length=77)
    prediction = {"prediction_type": "v_prediction"} if model == "sd21" else {}
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, **prediction})
    write_json(folder / "model_index.json", make_model_index(SCHEDULER["_class_name"], is_xl))
    return count


def _exists(folder: Path, part: str) -> bool:
    return (folder / f"{part}.json").exists()


def _write_weights(folder: Path, part: str, config: Any, dtype: str, seed: int) -> int:
    shapes = param_shapes(config)
    shards, weight_map = list(_split(shapes, np.dtype(np.float16).itemsize if dtype == "float16" else 4)), {}
    rng = np.random.default_rng(seed)
    for index, paths in enumerate(shards, start=1):
        name = f"{STEMS[part]}-{index:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, np.ndarray] = {}
        for path in paths:
            params = unflatten_params({path: _draw(rng, path, shapes[path])})
            tensors |= cast_tensors(to_torch(part, params), dtype)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    write_json(folder / f"{STEMS[part]}.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return size


def _split(shapes: Mapping[str, tuple[int, ...]], itemsize: int) -> Iterator[list[str]]:
    paths, size = [], 0
    for path in sorted(shapes):
        paths.append(path)
        size += int(np.prod(shapes[path])) * itemsize
        if size >= SHARD_BYTES:
            yield paths
            paths, size = [], 0
    if paths:
        yield paths


def _draw(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values that keep the size of signals. No scale is exactly 1, and no bias exactly 0."""
    noise = rng.standard_normal(shape, np.float32)
    if path.endswith("kernel"):
        return noise / np.float32(np.sqrt(np.prod(shape[:-1])))
    return 1 + 0.1 * noise if path.endswith("scale") else 0.1 * noise
