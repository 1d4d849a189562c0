"""Which kernels a setting of layers adapts in a model, from its configs alone: no weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from blocklora_jax.adapters.lora import COMPONENTS, KernelShapes
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.checkpoints.trees import unflatten_params
from blocklora_jax.errors import UserError
from blocklora_jax.models.config import TextConfig, UNetConfig

_KINDS = {"unet": UNetConfig, "text_encoder": TextConfig}
# Known by name, so that planning needs no files.
FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": {
        "unet": UNetConfig(cross_attention_dim=768),
        "text_encoder": TextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
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
    tree: dict[str, Any] = {component: {} for component in COMPONENTS}
    for component, config in configs.items():
        shapes = param_shapes(config)
        leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
        tree[component] = unflatten_params(leaves)
    return select_kernels(tree, layers)


def _read_configs(model: str) -> dict[str, Any]:
    folder = find_source(model).fetch(["*/config.json"])
    return {part: kind.from_json(*_read(folder, f"{part}/config.json")) for part, kind in _KINDS.items()}


def _read(folder: Path, name: str) -> tuple[dict[str, Any], str]:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8")), str(folder / name)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no Diffusers folder: cannot read its {name} ({error})") from error
