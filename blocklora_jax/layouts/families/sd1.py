"""Stable Diffusion 1.x."""

from __future__ import annotations

import re

from blocklora_jax.layouts.families import clues
from blocklora_jax.layouts.families.family import Clue, Family, PublishedConfig

SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    sizes={
        "unet": {"cross_attention_dim": 768},
        "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    },
    configs=(PublishedConfig("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"),),
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    tag="stable-diffusion",
    architecture="stable-diffusion-v1",
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    ldm_prefixes={
        "text_encoder": "cond_stage_model.transformer.",
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
    },
    ldm_root="cond_stage_model.transformer.",
    clues=(
        clues.OUTER_ATTENTION,
        clues.THIRD_SAMPLER,
        Clue("header", 2, re.compile(r"diffusion-v1|sd_v1")),
        clues.ONE_TEXT_ENCODER,
    ),
)
