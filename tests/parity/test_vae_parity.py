"""The whole autoencoder compared with diffusers, on random weights."""

import jax
import pytest
import torch
import torch_models as reference
from diffusers import AutoencoderKL as TorchVAE

from blocklora_jax.layouts.torch_names import to_flax
from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.vae import AutoencoderKL

CONFIGS = {
    "like 1.x": {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 2, "norm_num_groups": 32},
    "odd widths": {"block_out_channels": (24, 40, 56), "layers_per_block": 1, "norm_num_groups": 8},
    "one block, other latents": {
        "block_out_channels": (20,),
        "norm_num_groups": 5,
        "latent_channels": 3,
        "in_channels": 1,
        "out_channels": 1,
    },
    "without optional parts": {
        "block_out_channels": (16, 24),
        "norm_num_groups": 8,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_encode_and_decode_equal_diffusers(name):
    blocks = len(CONFIGS[name]["block_out_channels"])
    types = {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
    module = reference.randomise(TorchVAE(**CONFIGS[name], **types), 0)
    config = VAEConfig.from_json(dict(module.config), name)
    params = {"params": reference.as_jax(to_flax("vae", reference.state_arrays(module)))}
    model = AutoencoderKL(config)

    images = reference.normal(1, 2, 24, 16, config.in_channels)
    theirs = module.encode(reference.torch_image(images)).latent_dist
    mean, logvar = jax.jit(lambda p, x: model.apply(p, x, method="encode"))(params, images)
    assert reference.relative_error(mean, reference.from_torch_image(theirs.mean)) <= 1e-4
    assert reference.relative_error(logvar, reference.from_torch_image(theirs.logvar)) <= 1e-4

    latents = reference.normal(2, 2, 5, 4, config.latent_channels)
    decoded = module.decode(reference.torch_image(latents)).sample
    ours = jax.jit(lambda p, z: model.apply(p, z, method="decode"))(params, latents)
    assert reference.relative_error(ours, reference.from_torch_image(decoded)) <= 1e-4
    assert TorchVAE.from_config(config.to_json()).config.block_out_channels == list(config.block_out_channels)
