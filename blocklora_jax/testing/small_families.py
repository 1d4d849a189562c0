"""Small random models of each family, with two layers in each block, like the published models."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.models.config import TextConfig, TextProjectionConfig, UNetConfig, VAEConfig
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.testing.folders import SCHEDULER, WORDS, random_params

_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def family_configs(family: str, rows: int) -> dict:
    """Configs of a small model of the family, by component. rows: rows of the token table."""
    unet = UNetConfig(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=_DOWN[::-1],
        up_block_types=_UP,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = VAEConfig(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    text = TextConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=24,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=rows - 2,
        eos_token_id=rows - 1,
        pad_token_id=rows - 1,
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    if family == "sd1":
        return parts
    parts["unet"] = replace(unet, use_linear_projection=True, attention_head_dim=(2, 4))
    if family == "sd2":
        return parts | {"text_encoder": replace(text, hidden_act="gelu", projection_dim=12)}
    second = {"hidden_size": 24, "projection_dim": 24, "hidden_act": "gelu"}
    values = {field.name: getattr(text, field.name) for field in fields(TextConfig)}
    parts["text_encoder_2"] = TextProjectionConfig(**values | second)
    parts["unet"] = replace(
        parts["unet"],
        block_out_channels=(8, 16, 16),
        down_block_types=(_DOWN[0], _DOWN[1], _DOWN[1]),
        up_block_types=(_UP[1], _UP[1], _UP[0]),
        cross_attention_dim=40,
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=24 + 24,
    )
    return parts


def make_family(family: str, folder: Path, seed: int = 0) -> Checkpoint:
    """A small random model of the family, whose tokenizers are written below `folder`."""
    rows = write_tokenizer(folder / "tokenizer_source", WORDS, max_length=16)
    configs = family_configs(family, rows)
    params = {part: random_params(config, seed + i) for i, (part, config) in enumerate(configs.items())}
    tokenizer = folder / "tokenizer_source"
    scheduler = {**SCHEDULER, "prediction_type": "v_prediction" if family == "sd2" else "epsilon"}
    return Checkpoint(
        name="small",
        configs=configs,
        params=params,
        scheduler=scheduler,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer if FAMILIES[family].has_second_text_encoder else None,
    )
