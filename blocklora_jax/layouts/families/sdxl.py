"""Stable Diffusion XL."""

from __future__ import annotations

import re

from blocklora_jax.layouts.families.family import Clue, Family, PublishedConfig

SDXL = Family(
    name="sdxl",
    title="SDXL",
    sizes={
        "unet": {
            "cross_attention_dim": 2048,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "text_encoder_2": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        },
    },
    configs=(PublishedConfig("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),),
    pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    tag="stable-diffusion-xl",
    architecture="stable-diffusion-xl-v1-base",
    marks_velocity=True,
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    kohya_ldm_names=True,
    ldm_prefixes={
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
    },
    ldm_root="conditioner.embedders.",
    open_clip=frozenset({"text_encoder_2"}),
    clues=(
        Clue(
            "layer", 0, re.compile(r"unet/.*transformer_blocks_[1-9]/|unet/up_blocks_0/attentions_|unet/add_embedding/")
        ),
        Clue("layer", 4, re.compile(r"text_encoder_2/")),
        Clue("header", 0, re.compile(r"xl")),
        Clue("name", 0, re.compile(r"lora_te1_")),
        Clue("name", 3, re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_")),
    ),
)
