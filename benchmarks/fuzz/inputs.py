"""Small random models, from which the damaged inputs are made. Adapters come from `random_adapter`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.testing.folders import SCHEDULER, random_params
from blocklora_jax.testing.tiny_model import WORDS, tiny_configs

PROMPTS = ["a photo of a man", "a dog in the snow"]
# Prompts are long in a tokenizer that knows few words.
_TOKENS = 77


def tiny_checkpoint(family: str, folder: Path) -> Checkpoint:
    """A random model of "sd1", "sd2" or "sdxl", 16 x 16 pixels; its tokenizer is written below `folder`."""
    tokenizer = folder / "words"
    configs = tiny_configs(write_tokenizer(tokenizer, WORDS, max_length=_TOKENS), levels=1, family=family)
    for part in configs.keys() & {"text_encoder", "text_encoder_2"}:
        configs[part] = replace(configs[part], max_position_embeddings=_TOKENS)
    params = {part: random_params(config, seed) for seed, (part, config) in enumerate(configs.items())}
    prediction = {"prediction_type": "v_prediction"} if family == "sd2" else {}
    return Checkpoint(
        name="tiny", configs=configs, params=params, scheduler=SCHEDULER | prediction, tokenizer=tokenizer,
        tokenizer_2=tokenizer if family == "sdxl" else None,
    )  # fmt: skip


def tiny_params(family: str) -> dict[str, Any]:
    """Parameters of such a model."""
    with tempfile.TemporaryDirectory() as folder:
        return dict(tiny_checkpoint(family, Path(folder)).params)
