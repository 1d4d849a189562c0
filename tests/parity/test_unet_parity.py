"""The whole U-Net against diffusers, on random weights."""

import jax
import numpy as np
import pytest
import torch
import torch_models as reference
from diffusers import UNet2DConditionModel as TorchUNet

from blocklora_jax.checkpoints.layout import to_flax, to_torch
from blocklora_jax.models.config import UNetConfig
from blocklora_jax.models.unet import UNet2DConditionModel

DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
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
}


@pytest.mark.parametrize("sides", [(8, 16), (11, 7)])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_prediction_equals_diffusers(name, sides):
    module = reference.randomise(TorchUNet(**CONFIGS[name]), 0)
    config = UNetConfig.from_json(dict(module.config), name)
    params = reference.as_jax(to_flax("unet", reference.state_arrays(module)))
    sample, text = (
        reference.normal(1, 2, *sides, config.in_channels),
        reference.normal(2, 2, 9, config.cross_attention_dim),
    )
    timesteps = np.array([3, 977])
    theirs = module(reference.torch_image(sample), torch.from_numpy(timesteps), torch.from_numpy(text)).sample
    ours = jax.jit(UNet2DConditionModel(config).apply)({"params": params}, sample, timesteps, text)
    assert reference.relative_error(ours, reference.from_torch_image(theirs)) <= 1e-4


def test_written_config_and_weights_open_in_diffusers():
    config = UNetConfig(**CONFIGS["every other field"])
    first = reference.randomise(TorchUNet(**CONFIGS["every other field"]), 3)
    second = TorchUNet.from_config(config.to_json())
    tensors = to_torch("unet", to_flax("unet", reference.state_arrays(first)))
    second.load_state_dict({key: torch.from_numpy(tensor) for key, tensor in tensors.items()})
    for key, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor), key
