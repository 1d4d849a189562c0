import dataclasses

import pytest
from model_shapes import read_config

from blocklora_jax.errors import UserError
from blocklora_jax.models.config import TextConfig, TextProjectionConfig, UNetConfig, VAEConfig

CONFIGS = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": TextConfig, "text_encoder_2": TextProjectionConfig}
PUBLISHED = [
    (model, part)
    for model in ("sd15", "sd21", "sdxl")
    for part in CONFIGS
    if model == "sdxl" or part != "text_encoder_2"
]


@pytest.mark.parametrize(("model", "component"), PUBLISHED)
def test_published_config_survives_a_round_trip(model, component):
    raw = read_config(component, model)
    config = CONFIGS[component].from_json(raw, "x")
    written = config.to_json()
    assert CONFIGS[component].from_json(written, "x") == config
    kept = {name: value for name, value in raw.items() if name in written}
    assert {name: written[name] for name in kept} == kept


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_unknown_field_is_an_error_that_names_it(component):
    with pytest.raises(UserError, match=r"folder/config.json.*brand_new=3 \(unknown field\)"):
        CONFIGS[component].from_json({**read_config(component), "brand_new": 3}, "folder/config.json")


@pytest.mark.parametrize(
    ("component", "field", "value"),
    [
        ("unet", "use_linear_projection", 1),
        ("unet", "attention_head_dim", [5, 10, 20]),
        ("unet", "attention_head_dim", [5, 10, 20, 21]),
        ("unet", "transformer_layers_per_block", [1, 2, 10]),
        ("unet", "transformer_layers_per_block", [1, 1, 1, [1, 2]]),
        ("unet", "num_attention_heads", 8),
        ("unet", "addition_embed_type", "text"),
        ("unet", "addition_time_embed_dim", 256),
        ("unet", "class_embed_type", "projection"),
        ("unet", "act_fn", "gelu"),
        ("unet", "mid_block_type", None),
        ("unet", "down_block_types", ["AttnDownBlock2D"] * 4),
        ("unet", "up_block_types", ["UpBlock2D"]),
        ("unet", "layers_per_block", [2, 2]),
        ("unet", "layers_per_block", 0),
        ("unet", "norm_num_groups", 48),
        ("unet", "norm_num_groups", None),
        ("unet", "attention_head_dim", 7),
        ("unet", "cross_attention_dim", "768"),
        ("unet", "flip_sin_to_cos", 1),
        ("unet", "downsample_padding", 2),
        ("unet", "time_embedding_type", "fourier"),
        ("vae", "act_fn", "relu"),
        ("vae", "latents_mean", [0.0]),
        ("vae", "shift_factor", 0.1),
        ("vae", "up_block_types", ["UpDecoderBlock2D"]),
        ("vae", "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        ("vae", "norm_num_groups", 3),
        ("text_encoder", "hidden_act", "relu"),
        ("text_encoder", "num_attention_heads", 7),
        ("text_encoder", "vocab_size", -1),
        ("text_encoder", "vocab_size", True),
        ("text_encoder", "attention_dropout", 0.1),
    ],
)
def test_unsupported_value_is_an_error_that_names_it(component, field, value):
    with pytest.raises(UserError, match=f"^here: .*{field}"):
        CONFIGS[component].from_json({**read_config(component), field: value}, "here")


@pytest.mark.parametrize(
    ("component", "field", "value"),
    [
        ("unet", "addition_time_embed_dim", None),
        ("unet", "projection_class_embeddings_input_dim", 6 * 256),
        ("text_encoder_2", "projection_dim", None),
        ("text_encoder_2", "eos_token_id", [2, 3]),
    ],
)
def test_the_error_names_the_fields_that_sdxl_needs(component, field, value):
    with pytest.raises(UserError, match=f"^here: .*{field}"):
        CONFIGS[component].from_json({**read_config(component, "sdxl"), field: value}, "here")


def test_all_unsupported_values_are_named_at_once():
    raw = {**read_config("unet"), "dual_cross_attention": True, "act_fn": "mish", "novel": None}
    with pytest.raises(UserError, match="(?s)act_fn='mish'.*dual_cross_attention=True.*novel=None"):
        UNetConfig.from_json(raw, "x")


def test_wrong_types_are_errors_without_a_file_too():
    assert UNetConfig._find_wrong_types({"cross_attention_dim": "768", "norm_eps": 1, "flip_sin_to_cos": 1}) == [
        "cross_attention_dim='768' (supported: int)",
        "flip_sin_to_cos=1 (supported: bool)",
    ]


def test_replaced_field_is_checked_too():
    with pytest.raises(UserError, match="vocab_size"):
        dataclasses.replace(TextConfig(), vocab_size=0)


def test_absent_fields_take_the_defaults_of_diffusers():
    assert UNetConfig.from_json({}, "x").cross_attention_dim == 1280
    assert VAEConfig.from_json({}, "x").scaling_factor == 0.18215
    assert TextConfig.from_json({}, "x").hidden_act == "quick_gelu"
