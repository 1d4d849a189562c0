"""The whole U-Net compared with diffusers, on random weights."""

import jax
import numpy as np
import pytest
import torch
import torch_models as reference
from diffusers import UNet2DConditionModel as TorchUNet

from blocklora_jax.layouts.torch_names import to_flax, to_torch
from blocklora_jax.models.config import UNetConfig
from blocklora_jax.models.unet import AddedConditions, UNet2DConditionModel

DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
ADDED = {"addition_embed_type": "text_time", "use_linear_projection": True, "upcast_attention": None}
CONFIGS = {
    "like 1.x": {
        "block_out_channels": (32, 64, 64, 64),
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP, CROSS_UP),
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "attention_head_dim": 8,
        "cross_attention_dim": 48,
    },
    "two blocks, odd widths": {
        "block_out_channels": (24, 40),
        "down_block_types": (CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 20,
    },
    "like the pocket model": {
        "block_out_channels": (32, 48, 48),
        "down_block_types": (DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, UP),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "attention_head_dim": 2,
        "cross_attention_dim": 36,
    },
    "every other field": {
        "block_out_channels": (24, 48, 72),
        "down_block_types": (CROSS_DOWN, DOWN, CROSS_DOWN),
        "up_block_types": (UP, UP, CROSS_UP),
        "layers_per_block": (1, 2, 3),
        "norm_num_groups": 12,
        "attention_head_dim": 3,
        "cross_attention_dim": 17,
        "downsample_padding": 0,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "time_embedding_dim": 56,
        "norm_eps": 1e-4,
        "in_channels": 5,
        "out_channels": 3,
    },
    "like 2.x": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "2.x, attention everywhere": {
        "block_out_channels": (24, 40),
        "down_block_types": (CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": (3, 5),
        "cross_attention_dim": 20,
        "use_linear_projection": True,
    },
    "2.x, one block": {
        "block_out_channels": (30,),
        "down_block_types": (CROSS_DOWN,),
        "up_block_types": (CROSS_UP,),
        "layers_per_block": 2,
        "norm_num_groups": 6,
        "attention_head_dim": (5,),
        "cross_attention_dim": 14,
        "use_linear_projection": True,
        "sample_size": 12,
    },
    "like SDXL": {
        "block_out_channels": (16, 32, 64),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "cross_attention_dim": 48,
        **ADDED,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    },
    "SDXL, two blocks, convolutions": {
        "block_out_channels": (24, 40),
        "down_block_types": (DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "transformer_layers_per_block": (1, 3),
        "cross_attention_dim": 20,
        **ADDED,
        "use_linear_projection": False,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 13 + 6 * 6,
    },
    "SDXL, one block, deep": {
        "block_out_channels": (32,),
        "down_block_types": (CROSS_DOWN,),
        "up_block_types": (CROSS_UP,),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "attention_head_dim": (2,),
        "transformer_layers_per_block": 2,
        "cross_attention_dim": 24,
        "time_embedding_dim": 40,
        **ADDED,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 8 + 6 * 4,
    },
}


# Odd sides take another path through the up blocks. It is the same for every family.
CASES = [(name, (8, 16)) for name in CONFIGS] + [(name, (11, 7)) for name in list(CONFIGS)[:4]]


@pytest.mark.parametrize(("name", "sides"), CASES)
@torch.no_grad()
def test_prediction_equals_diffusers(name, sides):
    module = reference.randomise(TorchUNet(**CONFIGS[name]), 0)
    config = UNetConfig.from_json(dict(module.config), name)
    params = reference.as_jax(to_flax("unet", reference.state_arrays(module)))
    sample, text = (
        reference.normal(1, 2, *sides, config.in_channels),
        reference.normal(2, 2, 9, config.cross_attention_dim),
    )
    timesteps, ours_added, theirs_added = np.array([3, 977]), [], None
    if config.addition_embed_type:
        pooled = reference.normal(3, 2, config.pooled_width)
        sizes = np.array([[1024, 768, 0, 16, 1000, 512], [64, 64, 0, 0, 64, 64]], np.float32)
        ours_added = [AddedConditions(pooled, sizes)]
        theirs_added = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(sizes)}
    theirs = module(
        reference.torch_image(sample),
        torch.from_numpy(timesteps),
        torch.from_numpy(text),
        added_cond_kwargs=theirs_added,
    ).sample
    ours = jax.jit(UNet2DConditionModel(config).apply)({"params": params}, sample, timesteps, text, *ours_added)
    assert reference.relative_error(ours, reference.from_torch_image(theirs)) <= 1e-4


@pytest.mark.parametrize("name", ["every other field", "like 2.x", "like SDXL"])
def test_written_config_and_weights_open_in_diffusers(name):
    config = UNetConfig(**CONFIGS[name])
    first = reference.randomise(TorchUNet(**CONFIGS[name]), 3)
    second = TorchUNet.from_config(config.to_json())
    tensors = to_torch("unet", to_flax("unet", reference.state_arrays(first)))
    second.load_state_dict({key: torch.from_numpy(tensor) for key, tensor in tensors.items()})
    for key, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor), key
