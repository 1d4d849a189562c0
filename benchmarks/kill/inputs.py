"""The inputs of the commands: a tiny random model, two adapters, a LoRA without blocks, and pictures."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.testing.folders import SCHEDULER, random_params
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import WORDS, tiny_configs

MODEL, ADA, BOB, LORA, PICTURES = "model", "ada.safetensors", "bob.safetensors", "lora.safetensors", "pictures"
# The prompts of joint fits and conversions are long in a tokenizer that knows few words.
TOKENS = 64


def write_inputs(folder: Path) -> Path:
    """Write the inputs of all scenarios into `folder`; returns it."""
    params = _write_model(folder / MODEL)
    for slot, name in enumerate((ADA, BOB)):
        random_adapter(name.partition(".")[0], params, slots=(slot,)).save(folder / name)
    random_adapter("eve", params, slots=(), partition=None, layers="cross_kv", vectors=0).save(folder / LORA)
    (folder / PICTURES).mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / PICTURES / f"{i}.png")
    return folder


def _write_model(folder: Path) -> dict:
    """Write a model with one level, which compiles fast; returns its parameters."""
    with tempfile.TemporaryDirectory() as name:
        rows = write_tokenizer(Path(name), WORDS, max_length=TOKENS)
        configs = tiny_configs(rows, levels=1)
        configs["text_encoder"] = replace(configs["text_encoder"], max_position_embeddings=TOKENS)
        params = {part: random_params(config, seed) for seed, (part, config) in enumerate(configs.items())}
        save_folder(
            folder,
            Checkpoint(name="tiny", configs=configs, params=params, scheduler=SCHEDULER, tokenizer=Path(name)),
        )
    return params


if __name__ == "__main__":
    write_inputs(Path(sys.argv[1]))
