import dataclasses

import jax
import jax.numpy as jnp
import pytest
from model_shapes import model_shapes, random_params, read_config, reference_shapes

from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.vae import AutoencoderKL

CONFIG = VAEConfig(
    block_out_channels=(8, 16),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=4,
)
IMAGES = jax.random.uniform(jax.random.key(0), (2, 12, 8, 3), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def params():
    return random_params(AutoencoderKL(CONFIG), IMAGES)


def test_full_size_parameters_have_the_known_names_and_shapes():
    model = AutoencoderKL(VAEConfig.from_json(read_config("vae"), "x"), dtype=jnp.bfloat16)
    assert model_shapes(model, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)) == reference_shapes("vae")


def test_sides_shrink_by_the_downscale_and_come_back(params):
    model = AutoencoderKL(CONFIG)
    assert CONFIG.downscale == 2
    mean, logvar = jax.eval_shape(lambda p, x: model.apply(p, x, method="encode"), {"params": params}, IMAGES)
    assert mean.shape == logvar.shape == (2, 6, 4, 4)
    decoded = jax.eval_shape(lambda p, z: model.apply(p, z, method="decode"), {"params": params}, mean)
    assert decoded.shape == IMAGES.shape


def test_bf16_computes_near_fp32(params):
    exact, out = (jax.jit(AutoencoderKL(CONFIG, d).apply)({"params": params}, IMAGES) for d in ("float32", "bfloat16"))
    assert out.dtype == jnp.bfloat16
    # bf16 keeps 8 bits, an error of 4e-3 at each of some twenty layers. The errors add up as a random walk.
    assert jnp.abs(out.astype(jnp.float32) - exact).max() < 0.05 * jnp.abs(exact).max()


def test_optional_parts_have_no_parameters_when_off():
    config = dataclasses.replace(CONFIG, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False)
    shapes = model_shapes(AutoencoderKL(config), IMAGES)
    assert [path for path in shapes if "quant_conv" in path or "attentions" in path] == []
