"""Every block of the models compared with its PyTorch original, on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_models as reference
from diffusers.models.attention import BasicTransformerBlock as TorchTransformerBlock
from diffusers.models.attention import FeedForward as TorchFeedForward
from diffusers.models.attention_processor import Attention as TorchAttention
from diffusers.models.autoencoders.vae import Decoder as TorchDecoder
from diffusers.models.autoencoders.vae import Encoder as TorchEncoder
from diffusers.models.downsampling import Downsample2D as TorchDownsample
from diffusers.models.embeddings import TimestepEmbedding as TorchTimestepEmbedding
from diffusers.models.embeddings import Timesteps as TorchTimesteps
from diffusers.models.resnet import ResnetBlock2D as TorchResnet
from diffusers.models.transformers.transformer_2d import Transformer2DModel as TorchTransformer
from diffusers.models.unets import unet_2d_blocks as torch_blocks
from diffusers.models.upsampling import Upsample2D as TorchUpsample

from blocklora_jax.layouts.torch_names import to_flax
from blocklora_jax.models import attention, resnet, unet, unet_blocks, vae
from blocklora_jax.models.config import VAEConfig

TOLERANCE = 1e-5  # of max |reference|, fp32: a few hundred roundings of 6e-8


def params_of(module, component="unet"):
    return reference.as_jax(to_flax(component, reference.state_arrays(module)))


def apply(ours, module, *inputs, component="unet"):
    return jax.jit(ours.apply)({"params": params_of(module, component)}, *inputs)


def images(seed, *shape):
    x = reference.normal(seed, *shape)
    return x, reference.torch_image(x)


def rows(seed, *shape):
    x = reference.normal(seed, *shape)
    return x, torch.from_numpy(x)


def assert_equal(ours, theirs):
    theirs = reference.from_torch_image(theirs) if theirs.ndim == 4 else theirs.numpy()
    assert reference.relative_error(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize(("flip", "shift", "channels"), [(True, 0, 320), (False, 1, 24)])
def test_timestep_sinusoids(flip, shift, channels):
    timesteps = np.array([0, 1, 17, 500, 999])
    theirs = TorchTimesteps(channels, flip, shift)(torch.from_numpy(timesteps)).numpy()
    ours = unet.embed_timesteps(jnp.asarray(timesteps), channels, flip, shift)
    # Angles reach 999, where fp32 numbers are 6e-5 apart, and torch's exp and XLA's exp round differently.
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert reference.relative_error(ours[:3], theirs[:3]) <= TOLERANCE


@torch.no_grad()
def test_timestep_embedding():
    module = reference.randomise(TorchTimestepEmbedding(24, 56), 0)
    x, torch_x = rows(1, 3, 24)
    assert_equal(apply(unet.TimestepEmbedding(56), module, x), module(torch_x))


@pytest.mark.parametrize(
    ("channels", "out", "groups", "eps"), [(24, 40, 8, 1e-5), (36, 36, 12, 1e-6), (30, 20, 5, 1e-3)]
)
@pytest.mark.parametrize("timed", [True, False])
@torch.no_grad()
def test_residual_block(channels, out, groups, eps, timed):
    module = TorchResnet(
        in_channels=channels, out_channels=out, temb_channels=28 if timed else None, groups=groups, eps=eps
    )
    reference.randomise(module, 2)
    x, torch_x = images(3, 2, 5, 6, channels)
    time, torch_time = rows(4, 2, 28) if timed else (None, None)
    ours = apply(resnet.ResnetBlock2D(out, groups, eps), module, x, time)
    assert_equal(ours, module(torch_x, torch_time))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("sides", [(6, 8), (7, 5)])
@torch.no_grad()
def test_downsampler(padding, sides):
    module = reference.randomise(TorchDownsample(12, use_conv=True, padding=padding, name="op"), 5)
    x, torch_x = images(6, 2, *sides, 12)
    assert_equal(apply(resnet.Downsample2D(12, padding), module, x), module(torch_x))


@pytest.mark.parametrize("size", [None, (9, 7), (9, 8), (11, 8)])
@torch.no_grad()
def test_upsampler(size):
    module = reference.randomise(TorchUpsample(12, use_conv=True), 7)
    x, torch_x = images(8, 2, 5, 4, 12)
    assert_equal(apply(resnet.Upsample2D(12, size), module, x), module(torch_x, size))


@pytest.mark.parametrize(("channels", "heads"), [(24, 8), (40, 5), (36, 1)])
@pytest.mark.parametrize("text", [None, 17])
@torch.no_grad()
def test_attention(channels, heads, text):
    module = TorchAttention(channels, cross_attention_dim=text, heads=heads, dim_head=channels // heads)
    reference.randomise(module, 9)
    x, torch_x = rows(10, 2, 13, channels)
    context, torch_context = rows(11, 2, 7, text) if text else (None, None)
    ours = apply(attention.Attention(channels, heads), module, x, context)
    assert_equal(ours, module(torch_x, encoder_hidden_states=torch_context))


@torch.no_grad()
def test_feed_forward():
    module = reference.randomise(TorchFeedForward(24, activation_fn="geglu"), 12)
    x, torch_x = rows(13, 2, 9, 24)
    assert_equal(apply(attention.FeedForward(24), module, x), module(torch_x))


@torch.no_grad()
def test_transformer_block():
    module = TorchTransformerBlock(40, 5, 8, cross_attention_dim=17)
    reference.randomise(module, 14)
    (x, torch_x), (context, torch_context) = rows(15, 2, 12, 40), rows(16, 2, 7, 17)
    ours = apply(attention.BasicTransformerBlock(40, 5), module, x, context)
    assert_equal(ours, module(torch_x, encoder_hidden_states=torch_context))


@pytest.mark.parametrize(("depth", "linear"), [(1, False), (2, False), (2, True)])
@torch.no_grad()
def test_spatial_transformer(depth, linear):
    module = TorchTransformer(
        3, 8, 24, num_layers=depth, cross_attention_dim=17, norm_num_groups=12, use_linear_projection=linear
    )
    reference.randomise(module, 17)
    (x, torch_x), (context, torch_context) = images(18, 2, 5, 3, 24), rows(19, 2, 7, 17)
    ours = apply(attention.Transformer2DModel(24, 3, 12, depth, linear), module, x, context)
    assert_equal(ours, module(torch_x, encoder_hidden_states=torch_context).sample)


@torch.no_grad()
def test_vae_attention():
    module = TorchAttention(24, heads=1, dim_head=24, norm_num_groups=8, eps=1e-6, bias=True, residual_connection=True)
    reference.randomise(module, 20)
    x, torch_x = images(21, 2, 5, 4, 24)
    assert_equal(apply(attention.AttentionBlock(24, 8), module, x, component="vae"), module(torch_x))


@pytest.mark.parametrize("heads", [None, 4])
@pytest.mark.parametrize("downsample", [True, False])
@torch.no_grad()
def test_down_block(heads, downsample):
    options = {"in_channels": 24, "out_channels": 40, "temb_channels": 28, "num_layers": 2, "resnet_groups": 8}
    if heads:
        options |= {"num_attention_heads": heads, "cross_attention_dim": 17}
    make = torch_blocks.CrossAttnDownBlock2D if heads else torch_blocks.DownBlock2D
    module = reference.randomise(make(add_downsample=downsample, resnet_eps=1e-5, **options), 22)
    (x, torch_x), (time, torch_time) = images(23, 2, 6, 4, 24), rows(24, 2, 28)
    context, torch_context = rows(25, 2, 7, 17)
    block = unet_blocks.DownBlock2D(40, heads, 8, 1e-5, num_layers=2, downsample=downsample)
    ours, skips = apply(block, module, x, time, context)
    theirs, torch_skips = module(torch_x, torch_time, **({"encoder_hidden_states": torch_context} if heads else {}))
    assert_equal(ours, theirs)
    for skip, torch_skip in zip(skips, torch_skips, strict=True):
        assert_equal(skip, torch_skip)


@pytest.mark.parametrize("heads", [None, 5])
@pytest.mark.parametrize("size", [None, (8, 6), (7, 5)])
@torch.no_grad()
def test_up_block(heads, size):
    options = {"in_channels": 24, "prev_output_channel": 48, "out_channels": 40, "temb_channels": 28, "num_layers": 2}
    if heads:
        options |= {"num_attention_heads": heads, "cross_attention_dim": 17}
    make = torch_blocks.CrossAttnUpBlock2D if heads else torch_blocks.UpBlock2D
    module = make(add_upsample=size is not None, resnet_eps=1e-5, resnet_groups=8, **options)
    reference.randomise(module, 26)
    (x, torch_x), (time, torch_time) = images(27, 2, 4, 3, 48), rows(28, 2, 28)
    context, torch_context = rows(29, 2, 7, 17)
    skips, torch_skips = zip(images(30, 2, 4, 3, 24), images(31, 2, 4, 3, 40), strict=True)
    ours = apply(unet_blocks.UpBlock2D(40, heads, 8, 1e-5, upsample_size=size), module, x, skips, time, context)
    extra = {"encoder_hidden_states": torch_context} if heads else {}
    assert_equal(ours, module(torch_x, torch_skips, torch_time, upsample_size=size, **extra))


@torch.no_grad()
def test_middle_block():
    module = torch_blocks.UNetMidBlock2DCrossAttn(
        in_channels=40,
        temb_channels=28,
        resnet_eps=1e-5,
        resnet_groups=8,
        num_attention_heads=4,
        cross_attention_dim=17,
    )
    reference.randomise(module, 32)
    (x, torch_x), (time, torch_time) = images(33, 2, 4, 3, 40), rows(34, 2, 28)
    context, torch_context = rows(35, 2, 7, 17)
    ours = apply(unet_blocks.MidBlock2D(40, 4, 8, 1e-5), module, x, time, context)
    assert_equal(ours, module(torch_x, torch_time, encoder_hidden_states=torch_context))


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@torch.no_grad()
def test_vae_halves(half):
    names = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    config = VAEConfig(
        block_out_channels=(16, 24), down_block_types=names[0], up_block_types=names[1], norm_num_groups=8
    )
    shared = {"block_out_channels": (16, 24), "layers_per_block": 1, "norm_num_groups": 8}
    if half == "encoder":
        module, ours = TorchEncoder(3, 4, names[0], **shared), vae.Encoder(config)
    else:
        module, ours = TorchDecoder(4, 3, names[1], **shared), vae.Decoder(config)
    reference.randomise(module, 36)
    x, torch_x = images(37, 2, 8, 6, 3 if half == "encoder" else 4)
    assert_equal(apply(ours, module, x, component="vae"), module(torch_x))
