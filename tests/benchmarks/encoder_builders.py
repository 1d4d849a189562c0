"""Small random folders: CLIP and DINOv2 as transformers writes them, and a Stable Diffusion with the bench's words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BitImageProcessor, CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model

from benchmarks.modular.worlds.sentences import SENTENCES
from blocklora_jax.checkpoints.diffusers import Checkpoint, save_folder
from blocklora_jax.pocket.prompt_words import PHOTO_WORDS
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.testing.folders import SCHEDULER
from blocklora_jax.testing.tiny_model import _draw, tiny_configs

LENGTH = 77
TEXTS = [SENTENCES.read_text(), *PHOTO_WORDS.styles, *PHOTO_WORDS.subjects, *PHOTO_WORDS.scenes, "depicts owl"]
WORDS = sorted(set(re.findall("[a-z]+", " ".join(TEXTS).lower())))
IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def save_model(folder: Path) -> Path:
    """A Stable Diffusion 1.x of 16 x 16 pixels with one level."""
    tokenizer = folder.with_name("tokenizer")
    rows = write_tokenizer(tokenizer, WORDS, max_length=LENGTH)
    configs = tiny_configs(rows, levels=1)
    configs["text_encoder"] = replace(configs["text_encoder"], max_position_embeddings=LENGTH)
    rng = np.random.default_rng(3)
    params = {part: _draw(rng, config) for part, config in configs.items()}
    save_folder(
        folder, Checkpoint(name="tiny", configs=configs, params=params, scheduler=dict(SCHEDULER), tokenizer=tokenizer)
    )
    return folder


def save_clip(folder: Path, seed: int, width: int = 16) -> Path:
    """A CLIP for pictures of 32 x 32 pixels."""
    rows = write_tokenizer(folder, WORDS, max_length=LENGTH)
    tower = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": rows - 2, "eos_token_id": rows - 1, "pad_token_id": rows - 1}
    config = CLIPConfig(
        text_config={**tower, **ends, "vocab_size": rows, "max_position_embeddings": LENGTH},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_dino(folder: Path) -> Path:
    """A DINOv2 that resizes pictures to 32 pixels and reads the centre 28 x 28."""
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    torch.manual_seed(5)
    Dinov2Model(config).save_pretrained(folder)
    crop: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    BitImageProcessor(**crop, **IMAGENET).save_pretrained(folder)
    return folder
