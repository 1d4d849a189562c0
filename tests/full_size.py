"""The PyTorch models of each family at full size on the meta device, for names and shapes. They take no memory."""

from __future__ import annotations

import functools

import diffusers
import torch
import transformers

FAMILIES = ("sd1", "sd2", "sdxl")
_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_UP, _PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
_WIDE = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (_CROSS, _CROSS, _CROSS, _PLAIN),
    "up_block_types": (_PLAIN_UP, _UP, _UP, _UP),
}
UNETS = {
    "sd1": {**_WIDE, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **_WIDE,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (_PLAIN, _CROSS, _CROSS),
        "up_block_types": (_UP, _UP, _PLAIN_UP),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_VIT_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
_VIT_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
TEXTS = {
    "sd1": {"text_encoder": {**_VIT_L, "projection_dim": 768}},
    "sd2": {"text_encoder": {**_VIT_H, "projection_dim": 512, "hidden_act": "gelu"}},
    "sdxl": {
        "text_encoder": {**_VIT_L, "projection_dim": 768},
        "text_encoder_2": {**_VIT_G, "projection_dim": 1280, "hidden_act": "gelu"},
    },
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@functools.cache
def torch_model(family: str, component: str) -> torch.nn.Module:
    """One component on the meta device."""
    with torch.device("meta"):
        if component == "unet":
            return diffusers.UNet2DConditionModel(**UNETS[family])
        if component == "vae":
            return diffusers.AutoencoderKL(**VAE)
        config = transformers.CLIPTextConfig(**TEXTS[family][component])
        kind = transformers.CLIPTextModelWithProjection if component == "text_encoder_2" else transformers.CLIPTextModel
        return kind(config)


@functools.cache
def torch_shapes(family: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every parameter by component and key, as files have them (always with `text_model.`)."""
    return {
        component: {
            _file_key(component, key): tuple(parameter.shape)
            for key, parameter in torch_model(family, component).named_parameters()
        }
        for component in ("unet", "vae", *TEXTS[family])
    }


def _file_key(component: str, key: str) -> str:
    plain = component.startswith("text_encoder") and not key.startswith(("text_model.", "text_projection."))
    return f"text_model.{key}" if plain else key
