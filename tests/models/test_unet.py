import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from model_shapes import model_shapes, random_params, read_config, reference_shapes, unet_reference_shapes

from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.models.config import UNetConfig
from blocklora_jax.models.unet import AddedConditions, UNet2DConditionModel, embed_timesteps

CONFIG = UNetConfig(
    block_out_channels=(16, 24),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
    attention_head_dim=2,
    cross_attention_dim=12,
)
SAMPLE = jax.random.normal(jax.random.key(0), (2, 6, 4, 4))
TIMESTEPS = jnp.array([3, 871])
TEXT = jax.random.normal(jax.random.key(1), (2, 5, 12))


@pytest.fixture(scope="module")
def params():
    return random_params(UNet2DConditionModel(CONFIG), SAMPLE, TIMESTEPS, TEXT)


@functools.cache
def compiled(**options):
    return jax.jit(UNet2DConditionModel(CONFIG, **options).apply)


def predict(params, sample=SAMPLE, timesteps=TIMESTEPS, text=TEXT, **options):
    return compiled(**options)({"params": params}, sample, timesteps, text)


ONE_BLOCK = dataclasses.replace(
    CONFIG, block_out_channels=(16,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",)
)


@functools.cache
def compiled_gradient(remat):
    def loss(params, text):
        model = UNet2DConditionModel(ONE_BLOCK, remat=remat)
        return jnp.square(model.apply({"params": params}, SAMPLE, TIMESTEPS, text)).mean()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize("remat", [False, True])
def test_full_size_parameters_have_the_known_names_and_shapes(remat):
    model = UNet2DConditionModel(UNetConfig.from_json(read_config("unet"), "x"), dtype=jnp.bfloat16, remat=remat)
    inputs = (
        jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1, 77, 768), jnp.float32),
    )
    assert model_shapes(model, *inputs) == reference_shapes("unet")


@pytest.mark.parametrize("name", ["sd21", "sdxl"])
def test_full_size_parameters_of_later_models_have_the_known_names_and_shapes(name):
    config = UNetConfig.from_json(read_config("unet", name), name)
    assert dict(param_shapes(config)) == unet_reference_shapes(name)


def test_pooled_text_and_sizes_change_the_prediction_and_must_be_there():
    options = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    model = UNet2DConditionModel(
        dataclasses.replace(ONE_BLOCK, **options, projection_class_embeddings_input_dim=5 + 24)
    )
    pooled, sizes = TEXT[:, 0, :5], jnp.array([[8.0, 8, 0, 0, 8, 8], [8, 8, 2, 0, 16, 8]])
    params = random_params(model, SAMPLE, TIMESTEPS, TEXT, AddedConditions(pooled, sizes))
    apply = jax.jit(lambda *added: model.apply({"params": params}, SAMPLE, TIMESTEPS, TEXT, AddedConditions(*added)))
    base = apply(pooled, sizes)
    assert jnp.abs(apply(pooled + 1, sizes) - base).max() > 1e-3
    moved = jnp.abs(apply(pooled, sizes.at[1, 2].add(7)) - base).max((1, 2, 3))
    assert moved[0] == 0 and moved[1] > 1e-3
    with pytest.raises(ValueError, match="added conditions"):
        model.apply({"params": params}, SAMPLE, TIMESTEPS, TEXT)


def test_time_and_text_change_the_prediction(params):
    base = predict(params)
    assert base.shape == SAMPLE.shape
    assert jnp.abs(predict(params, timesteps=TIMESTEPS + 50) - base).max() > 1e-3
    assert jnp.abs(predict(params, text=TEXT[::-1]) - base).max() > 1e-3


def test_float_timesteps_agree_with_integer_ones(params):
    np.testing.assert_array_equal(predict(params, timesteps=TIMESTEPS.astype(jnp.float32)), predict(params))


def test_timestep_embedding_order_and_frequencies():
    timesteps = jnp.array([0, 2, 999])
    sin_first = embed_timesteps(timesteps, 6, flip_sin_to_cos=False, freq_shift=1)
    angles = np.array([0, 2, 999])[:, None] * 10000.0 ** (-np.arange(3) / 2)[None, :]
    # fp32 angles up to 999 carry an error of 6e-5.
    np.testing.assert_allclose(sin_first, np.concatenate([np.sin(angles), np.cos(angles)], axis=1), atol=1e-4)
    cos_first = embed_timesteps(timesteps, 6, flip_sin_to_cos=True, freq_shift=1)
    np.testing.assert_array_equal(cos_first, jnp.roll(sin_first, 3, axis=1))


def test_sides_that_do_not_halve_evenly_are_kept(params):
    sample = jax.random.normal(jax.random.key(0), (2, 7, 5, 4))
    assert jax.eval_shape(predict, params, sample).shape == sample.shape


def test_bf16_computes_near_fp32_with_fp32_parameters(params):
    exact, out = predict(params), predict(params, dtype=jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    # bf16 keeps 8 bits, an error of 4e-3 at each of some thirty layers. The errors add up as a random walk.
    assert jnp.abs(out.astype(jnp.float32) - exact).max() < 0.05 * jnp.abs(exact).max()


def test_remat_keeps_prediction_and_gradient():
    params = random_params(UNet2DConditionModel(ONE_BLOCK), SAMPLE, TIMESTEPS, TEXT)
    value, gradient = compiled_gradient(False)(params, TEXT)
    again, recomputed = compiled_gradient(True)(params, TEXT)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    # Relative to the largest gradient, because gradients of a bias before a normalisation are sums that almost cancel.
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    for ours, theirs in zip(jax.tree.leaves(recomputed), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-7 * largest)


def test_gradient_reaches_text_and_every_parameter():
    params = random_params(UNet2DConditionModel(ONE_BLOCK), SAMPLE, TIMESTEPS, TEXT)
    by_params, by_text = compiled_gradient(False)(params, TEXT)[1]
    dead = [path for path, leaf in flatten_dict(by_params, sep="/").items() if not jnp.abs(leaf).max() > 0]
    assert dead == []
    assert jnp.abs(by_text).max() > 0


@pytest.mark.parametrize("remat", [False, True])
def test_an_interceptor_sees_every_dense_layer_at_its_parameter_path_and_may_sow(params, remat):
    met = set()

    def record(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        module = context.module
        is_pointwise = isinstance(module, nn.Conv) and tuple(module.kernel_size) == (1, 1)
        if context.method_name == "__call__" and (isinstance(module, nn.Dense) or is_pointwise):
            met.add("/".join(module.path))
            module.sow("norms", "squared", jnp.square(out).sum())
        return out

    def sown(params):
        with nn.intercept_methods(record):
            model = UNet2DConditionModel(CONFIG, remat=remat)
            return model.apply({"params": params}, SAMPLE, TIMESTEPS, TEXT, mutable=["norms"])[1]["norms"]

    flat = flatten_dict(params, sep="/")
    expected = {
        path.removesuffix("/kernel")
        for path, leaf in flat.items()
        if path.endswith("/kernel") and (leaf.ndim == 2 or leaf.shape[:2] == (1, 1))
    }
    # Tracing is enough to see names, and to see that sown values can be differentiated outside a rematerialised block.
    norms = jax.eval_shape(sown, params)
    jax.eval_shape(jax.grad(lambda p: sum(jax.tree.leaves(sown(p)))), params)
    assert met == expected
    assert {path.removesuffix("/squared") for path in flatten_dict(norms, sep="/")} == expected


def test_layers_may_differ_by_block():
    config = dataclasses.replace(CONFIG, layers_per_block=(1, 3))
    names = {path.split("/resnets_")[0] + "/" + path.split("/resnets_")[1][0] for path in _resnet_paths(config)}
    assert len([name for name in names if name.startswith("down_blocks_1/")]) == 3
    assert len([name for name in names if name.startswith("up_blocks_0/")]) == 4
    assert len([name for name in names if name.startswith("up_blocks_1/")]) == 2


def _resnet_paths(config):
    shapes = model_shapes(UNet2DConditionModel(config), SAMPLE, TIMESTEPS, TEXT)
    return [path for path in shapes if "/resnets_" in path]
