"""Small random models as `Checkpoint` objects, and changes to files with PyTorch's keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from blocklora_jax.checkpoints.diffusers import Checkpoint
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.pocket.tokenizer import write_tokenizer

WORDS = ["a", "photo", "of", "man", "dog"]
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def small_configs(rows: int) -> dict[str, Any]:
    """Configs, by component, of a Stable Diffusion 1.x for 16 x 16 pixels. The token table has `rows` rows."""
    unet = UNetConfig(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = VAEConfig(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    text = TextConfig(
        vocab_size=rows,
        hidden_size=24,
        intermediate_size=48,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=rows - 2,
        eos_token_id=rows - 1,
        pad_token_id=rows - 1,
    )
    return {"unet": unet, "vae": vae, "text_encoder": text}


def random_params(config: Any, seed: int) -> dict[str, Any]:
    """Parameters of one component, fp32, normal with standard deviation 0.1."""
    generator = np.random.default_rng(seed)
    shapes = param_shapes(config)
    flat = {path: 0.1 * generator.standard_normal(shapes[path], np.float32) for path in sorted(shapes)}
    return unflatten_dict(flat, sep="/")


def make_checkpoint(folder: Path, seed: int = 0) -> Checkpoint:
    """A small random model whose tokenizer is written below `folder`."""
    rows = write_tokenizer(folder / "tokenizer_source", WORDS, max_length=16)
    configs = small_configs(rows)
    params = {part: random_params(config, seed + i) for i, (part, config) in enumerate(configs.items())}
    tokenizer = folder / "tokenizer_source"
    return Checkpoint(name="small", configs=configs, params=params, scheduler=SCHEDULER, tokenizer=tokenizer)


def replace_params(checkpoint: Checkpoint, params: dict[str, Any]) -> Checkpoint:
    """The checkpoint with `params` in place of its own."""
    return replace(checkpoint, params=params)


def grow_table(config: TextConfig, rows: int) -> TextConfig:
    """The config of a text encoder with `rows` more tokens."""
    return replace(config, vocab_size=config.vocab_size + rows)


def assert_same_params(actual: dict, expected: dict) -> None:
    """Assert that parameters have the same structure and types, and are equal bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    values: dict[str, Any] = flatten_dict(actual, sep="/")
    leaves: dict[str, Any] = flatten_dict(expected, sep="/")
    for path, leaf in leaves.items():
        assert values[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(values[path], leaf, err_msg=path)


def rewrite(path: Path, change) -> None:
    """Replace a weight file's tensors by `change(tensors)`."""
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of the object in a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def shard(path: Path) -> None:
    """Split a weight file in two with an index, as diffusers and transformers do."""
    tensors = load_file(path)
    keys, stem, end = sorted(tensors), path.name.removesuffix(".safetensors"), ".safetensors"
    # "model.fp16": the variant comes before the number in the names of shards, and at the end of the index' name.
    name, _, variant = stem.partition(".")
    index = f"{name}.safetensors.index.{variant}.json" if variant else f"{name}.safetensors.index.json"
    weight_map = {}
    for i, part in enumerate((keys[::2], keys[1::2]), start=1):
        file = f"{stem}-0000{i}-of-00002{end}"
        save_file({key: tensors[key] for key in part}, path.with_name(file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    path.with_name(index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    path.unlink()
