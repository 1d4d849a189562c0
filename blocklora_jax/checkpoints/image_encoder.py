"""Reads and writes a CLIP image tower as a folder that transformers opens: `config.json` and `model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.checkpoints.weights import cast_tensors
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.tensor_file import open_tensors, save_tensors
from blocklora_jax.layouts.torch_names import to_flax, to_torch
from blocklora_jax.models.clip_vision import VisionConfig


def load_image_encoder(folder: Path) -> tuple[VisionConfig, dict[str, Any], np.ndarray]:
    """The tower's config, its fp32 parameters for `CLIPVisionModel`, and the text projection [d, p].

    Raises: UserError for a config that is not that of such a tower.
    """
    config = VisionConfig.from_json(read_json(folder / "config.json"), f"{folder}/config.json")
    model, projection = (
        cast_tensors(_read_all(folder / f"{name}.safetensors"), "float32") for name in ("model", "text_projection")
    )
    return config, to_flax("image_encoder", model), projection["text_projection.weight"].T


def save_image_encoder(
    folder: Path, config: VisionConfig, params: Mapping[str, Any], text_projection: Any, dtype: str = "float32"
) -> None:
    """Write the tower, and `text_projection.safetensors` with the projection of text states into the same space.

    params: parameters of `CLIPVisionModel`. text_projection: [d, p], applied to the text state at the end token. It is
    stored as PyTorch's `text_projection.weight` [p, d].
    """
    write_json(folder / "config.json", config.to_json())
    files = {
        "model.safetensors": to_torch("image_encoder", params),
        "text_projection.safetensors": {
            "text_projection.weight": np.ascontiguousarray(np.asarray(text_projection).T),
        },
    }
    for name, tensors in files.items():
        save_tensors(folder / name, cast_tensors(tensors, dtype), {"format": "pt"})


def _read_all(path: Path) -> dict[str, np.ndarray]:
    with open_tensors(path) as file:
        return file.read_all()
