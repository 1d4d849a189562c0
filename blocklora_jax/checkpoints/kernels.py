"""Which kernels a setting of layers adapts in a model, from its configs alone: no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.layouts.components import ADAPTED
from blocklora_jax.layouts.low_rank import KernelShapes
from blocklora_jax.models.config import TextConfig, TextProjectionConfig, UNetConfig

# Known by name, so that planning needs no files.
FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": {
        "unet": UNetConfig(cross_attention_dim=768),
        "text_encoder": TextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    },
    "sd21": {
        "unet": UNetConfig(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
        "text_encoder": TextConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16
        ),
    },
    "sdxl": {
        "unet": UNetConfig(
            cross_attention_dim=2048,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "text_encoder": TextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
        "text_encoder_2": TextProjectionConfig(
            hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
        ),
    },
}


def model_kernels(model: str, layers: str) -> KernelShapes:
    """Kernel shapes (n, m) of the layers that the setting `layers` adapts.

    Args:
        model: a key of `FAMILIES`, "pocket", a Diffusers folder or a hub id (only its config.json files are fetched).
        layers: see `adapters.targets.LAYER_SETS`.

    Raises:
        UserError: no such model or layers.
    """
    configs = FAMILIES.get(model) or _read_configs(model)
    tree: dict[str, Any] = {component: {} for component in ADAPTED}
    for component, config in configs.items():
        shapes = param_shapes(config)
        leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
        tree[component] = unflatten_params(leaves)
    return select_kernels(tree, layers)


def _read_configs(model: str) -> dict[str, Any]:
    source = find_source(model)
    names, folder = source.list_names(), source.fetch(["*/config.json"])
    parts = [part for part in ADAPTED if part != "text_encoder_2" or f"{part}/config.json" in names]
    return {part: CONFIGS[part].from_json(*_read(folder, f"{part}/config.json")) for part in parts}


def _read(folder: Path, name: str) -> tuple[dict[str, Any], str]:
    try:
        value = read_json(folder / name)
    except UserError as error:
        raise UserError(f"{folder} is no Diffusers folder: cannot read its {name} ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{folder / name} does not hold a JSON object")
    return value, str(folder / name)
