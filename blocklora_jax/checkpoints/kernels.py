"""Finds the kernels of a model that a setting of layers adapts, from its configs alone. No weights are read."""

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
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.low_rank import KernelShapes

# Configs of published models by name, so that planning needs no files.
KNOWN: dict[str, dict[str, Any]] = {
    family.configs[0].name: {part: CONFIGS[part](**values) for part, values in family.sizes.items()}
    for family in FAMILIES.values()
}


def model_kernels(model: str, layers: str) -> KernelShapes:
    """Kernel shapes (n, m) of the layers that the setting `layers` adapts.

    Args:
        model: a key of `KNOWN`, "pocket", a Diffusers folder or a hub id (only its config.json files are fetched).
        layers: see `adapters.targets.LAYER_SETS`.

    Raises:
        UserError: there is no such model, or the setting is unknown or matches no layer.
    """
    configs = KNOWN.get(model) or _read_configs(model)
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
        raise UserError(f"{folder} is not a Diffusers folder: cannot read its {name} ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{folder / name} does not hold a JSON object")
    return value, str(folder / name)
