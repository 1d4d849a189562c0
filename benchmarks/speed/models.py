"""The models that both sides build, from the published configs or those of the pocket model."""

from __future__ import annotations

import json
from typing import Any

from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.testing.random_folder import read_configs

Configs = dict[str, dict[str, Any]]


def model_configs(name: str) -> Configs:
    """The `config.json` of every component of the model `name`."""
    if name != "pocket":
        return read_configs(name)
    folder = find_source(name).fetch([f"{part}/config.json" for part in CONFIGS])
    paths = {part: folder / part / "config.json" for part in CONFIGS}
    return {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}


def text_shape(configs: Configs) -> tuple[int, int]:
    """Positions and features of an encoded prompt."""
    return configs["text_encoder"]["max_position_embeddings"], configs["unet"]["cross_attention_dim"]


def latent_side(configs: Configs, size: int) -> int:
    """Height and width of the latents of a picture with `size` pixels."""
    return size // 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
