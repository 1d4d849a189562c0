"""Checks that the components of a model fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.models.config import TextConfig
from blocklora_jax.prompts.clip_tokenizer import TokenizerFiles


def check_configs(configs: Mapping[str, Any], source: str) -> None:
    """Raise UserError if the U-Net's inputs and outputs do not fit the text encoders and the VAE.

    Then the model is of another kind.
    """
    unet, vae = configs["unet"], configs["vae"]
    towers = {part: config for part, config in configs.items() if isinstance(config, TextConfig)}
    width, pooled = sum(text.hidden_size for text in towers.values()), 0
    if "text_encoder_2" in configs:
        pooled = configs["text_encoder_2"].projection_dim
    for what, value, other, expected in (
        ("unet in_channels", unet.in_channels, "vae latent_channels", vae.latent_channels),
        ("unet out_channels", unet.out_channels, "vae latent_channels", vae.latent_channels),
        ("unet cross_attention_dim", unet.cross_attention_dim, f"the hidden_size of {' and '.join(towers)}", width),
        ("the width of the unet's pooled text", unet.pooled_width, "what the text encoders give", pooled),
    ):
        if value != expected:
            raise UserError(
                f"{source}: {what} is {value}, but {other} is {expected}; only text-to-image models are supported,"
                " not inpainting, depth or image-conditioned models, and not refiners"
            )


def with_end_token(configs: dict[str, Any], tokenizer_2: Path | None) -> dict[str, Any]:
    """The configs, with the end token's id in the second text encoder's config.

    Published configs have the wrong id 2, and then the text is pooled at the largest id of the prompt. That is the end
    token only if there are no concept tokens, whose ids are larger.
    """
    if tokenizer_2 is None or configs["text_encoder_2"].eos_token_id != 2:
        return configs
    files = TokenizerFiles.read(tokenizer_2)
    end = {**files.added, **files.vocabulary}.get(files.config["eos_token"])
    return {**configs, "text_encoder_2": replace(configs["text_encoder_2"], eos_token_id=end)}
