"""The interceptor computes the same as fused weights, under every transformation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.adapters.apply import apply_adapted
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import TEXT_WIDTH, tiny_models, tiny_params

TOLERANCE = 1e-5  # of the largest |reference|, fp32
# "full" has 1x1 convolutions and dense layers with and without a bias.
ADAPTER = random_adapter(
    "p", tiny_params(), slots=(1,), layers="full+text_encoder", partition=Partition(num_blocks=4, axis="grid")
)
LAYERS, SCALE = ADAPTER.lora["unet"], ADAPTER.info.scale
IDS = jnp.arange(2 * 8, dtype=jnp.int32).reshape(2, 8)


def unet_inputs(rows: int = 3) -> tuple:
    keys = jax.random.split(jax.random.key(0), 2)
    latents = jax.random.normal(keys[0], (rows, 8, 8, 4))
    return latents, jnp.arange(rows) * 300, jax.random.normal(keys[1], (rows, 5, TEXT_WIDTH))


def fuse(params: dict, layers: dict[str, LoRAPair], scale: float) -> dict:
    """`params` of one component with each pair added to its kernel."""

    def leaf(path, value):
        pair = layers.get("/".join(key.key for key in path[:-1]))
        if pair is None or path[-1].key != "kernel":
            return value
        return value + (scale * (pair.lora_A @ pair.lora_B)).reshape(value.shape)

    return jax.tree_util.tree_map_with_path(leaf, params)


def adapted(layers=LAYERS, scale=SCALE, params=None, remat: bool = False, inputs=None, **kwargs):
    params = tiny_params()["unet"] if params is None else params
    return apply_adapted(tiny_models(remat=remat).unet, params, layers, scale, *(inputs or unet_inputs()), **kwargs)


def plain(params, inputs=None):
    return tiny_models().unet.apply({"params": params}, *(inputs or unet_inputs()))


def assert_close(actual, expected, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_gradients_close(actual, expected) -> None:
    """Within 1e-5 of the largest gradient of all."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * largest), actual, expected)


def value_and_output(apply):
    def loss(layers):
        output = apply(layers)
        return jnp.mean(jnp.sin(output)), output

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_the_unet_and_its_gradients_equal_fused_weights_with_and_without_remat():
    # Each side is one compiled program, because forward and backward of a whole U-Net take long to compile.
    (_, output), gradients = value_and_output(lambda layers: adapted(layers, remat=True)[0])(LAYERS)
    through_fused = value_and_output(lambda layers: plain(fuse(tiny_params()["unet"], layers, SCALE)))
    (_, expected), reference = through_fused(LAYERS)
    assert_close(output, expected)
    assert_gradients_close(gradients, reference)
    (_, base), _ = through_fused(jax.tree.map(jnp.zeros_like, LAYERS))
    assert np.abs(output - base).max() > 0.01 * np.abs(base).max()


def test_the_text_encoder_equals_fused_weights():
    model, params = tiny_models().text_encoder, tiny_params()["text_encoder"]
    layers = ADAPTER.lora["text_encoder"]
    output, energies = apply_adapted(model, params, layers, SCALE, IDS, random_rows=1)
    base = model.apply({"params": params}, IDS)
    assert_close(output, model.apply({"params": fuse(params, layers, SCALE)}, IDS))
    assert np.abs(output - base).max() > 0.01 * np.abs(base).max()
    assert energies.shape == (len(layers), 1)


class TwoLayers(nn.Module):
    """A dense layer and a 1x1 convolution, both with a bias; small enough to compute by hand."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(5, (1, 1), name="b_conv")(jnp.tanh(nn.Dense(3, name="a_dense")(x)))


class Outer(nn.Module):
    """The two layers in a block that may be rematerialised."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        return (nn.remat(TwoLayers) if self.remat else TwoLayers)(name="block")(x)


@pytest.fixture(scope="module")
def two_layers():
    keys = iter(jax.random.split(jax.random.key(0), 9))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    params = {
        "a_dense": {"kernel": normal(4, 3), "bias": normal(3)},
        "b_conv": {"kernel": normal(1, 1, 3, 5), "bias": normal(5)},
    }
    layers = {"a_dense": LoRAPair(normal(4, 2), normal(2, 3)), "b_conv": LoRAPair(normal(3, 2), normal(2, 5))}
    return params, layers, normal(3, 2, 2, 4)


def apply_outer(params, layers, x, remat: bool = False, **kwargs):
    layers = {f"block/{name}": pair for name, pair in layers.items()}
    return apply_adapted(Outer(remat), {"block": params}, layers, 0.5, x, **kwargs)


def apply_fused(params, layers, x):
    return TwoLayers().apply({"params": fuse(params, layers, 0.5)}, x)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_layers_with_a_bias_equal_fused_weights(two_layers, remat, transform):
    output = transform(lambda *args: apply_outer(*args, remat=remat)[0])(*two_layers)
    assert_close(output, apply_fused(*two_layers))


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_of_layers_equal_those_through_fused_weights(two_layers, remat):
    params, layers, x = two_layers

    def gradient(apply):
        return jax.jit(jax.grad(lambda layers: jnp.mean(jnp.sin(apply(params, layers, x)))))(layers)

    assert_gradients_close(gradient(lambda *args: apply_outer(*args, remat=remat)[0]), gradient(apply_fused))


def test_vmap_over_adapters_equals_each_alone(two_layers):
    params, layers, x = two_layers
    pairs = jax.tree.map(lambda leaf: jnp.stack([leaf, 0 * leaf]), layers)
    outputs, energies = jax.jit(jax.vmap(lambda pair: apply_outer(params, pair, x, random_rows=1)))(pairs)
    assert_close(outputs[0], apply_fused(*two_layers))
    assert_close(outputs[1], TwoLayers().apply({"params": params}, x))
    assert energies.shape == (2, 2, 1)
    assert not energies[1].any()


def test_a_jitted_base_model_is_not_adapted_by_a_later_call(two_layers):
    params, layers, x = two_layers
    base = jax.jit(lambda x: TwoLayers().apply({"params": params}, x))
    before = base(x)
    jax.jit(lambda: apply_adapted(TwoLayers(), params, layers, 0.5, x))()
    np.testing.assert_array_equal(base(x), before)


def test_without_layers_the_output_is_that_of_the_base_model(two_layers):
    params, _, x = two_layers
    output, energies = apply_adapted(TwoLayers(), params, {}, 0.5, x, random_rows=2)
    np.testing.assert_array_equal(output, TwoLayers().apply({"params": params}, x))
    assert energies.shape == (0, 2)


def test_a_layer_that_the_model_lacks_is_an_error():
    layers = {"mid_block/attentions_9/to_k": next(iter(LAYERS.values()))}
    with pytest.raises(UserError, match="mid_block/attentions_9/to_k are not in this UNet2DConditionModel"):
        jax.eval_shape(lambda: adapted(layers))


def test_energies_are_those_of_the_last_rows_sorted_by_layer_without_bias(two_layers):
    params, layers, x = two_layers
    output, energies = apply_adapted(TwoLayers(), params, layers, 0.5, x, random_rows=2)

    def by_hand(x, name):
        pair, bias = jax.tree.map(np.asarray, (layers[name], params[name]["bias"]))
        w = np.asarray(params[name]["kernel"]).reshape(len(pair.lora_A), -1)
        change, base = 0.5 * x @ pair.lora_A @ pair.lora_B, x @ w
        axes = (1, 2, 3)
        return base + change + bias, (change**2).sum(axes) / (base**2).sum(axes)

    hidden, first = by_hand(np.asarray(x), "a_dense")
    expected, second = by_hand(np.tanh(hidden), "b_conv")
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(energies, np.stack([first, second])[:, 1:], rtol=1e-5)


def test_energies_of_rematerialised_layers_are_the_same(two_layers):
    plain, remat = (
        jax.jit(lambda *args, r=r: apply_outer(*args, remat=r, random_rows=2)[1])(*two_layers) for r in (False, True)
    )
    assert np.all(plain > 0)
    np.testing.assert_allclose(plain, remat, rtol=1e-5)


class OneLayer(nn.Module):
    """The first of the two layers."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, dtype=self.dtype, name="a_dense")(x)


def test_bfloat16_models_add_a_bfloat16_change(two_layers):
    params, layers, x = two_layers
    first = {"a_dense": layers["a_dense"]}
    output, energies = apply_adapted(OneLayer(jnp.bfloat16), params, first, 0.5, x, random_rows=1)
    reference, exact = apply_adapted(OneLayer(), params, first, 0.5, x, random_rows=1)
    assert output.dtype == jnp.bfloat16
    assert energies.dtype == jnp.float32
    # bf16 keeps 8 bits; a few roundings.
    np.testing.assert_allclose(output.astype(jnp.float32), reference, rtol=0, atol=0.03 * np.abs(reference).max())
    np.testing.assert_allclose(energies, exact, rtol=0.05)
