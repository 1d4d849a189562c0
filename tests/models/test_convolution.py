"""The product form of 3x3 convolutions equals XLA's own, in value and gradients, and only CPUs get it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from blocklora_jax.models import convolution
from blocklora_jax.models.convolution import convolve

OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
STRIDES_AND_PADDINGS = [
    ((1, 1), ((1, 1), (1, 1))),
    ((2, 2), ((1, 1), (1, 1))),
    ((2, 2), ((0, 0), (0, 0))),
    ((1, 2), ((0, 1), (2, 0))),
]


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape, np.float32))


@pytest.fixture
def everything_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_KERNEL_SIZE", 0)
    monkeypatch.setattr(convolution, "_PIXELS", 2**30)


@pytest.mark.usefixtures("everything_is_a_product")
@pytest.mark.parametrize(("strides", "padding"), STRIDES_AND_PADDINGS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_product_equals_convolution_with_both_gradients(strides, padding, height: int, width: int) -> None:
    x, kernel = draw(2, height, width, 6), draw(3, 3, 6, 4)
    plain = lambda x, kernel: lax.conv_general_dilated(x, kernel, strides, padding, **OPTIONS)
    product = jax.jit(lambda x, kernel: convolve(x, kernel, strides, padding, **OPTIONS))
    expected, pull = jax.vjp(plain, x, kernel)
    found, pull_found = jax.vjp(product, x, kernel)
    cotangent = draw(*expected.shape)
    # fp32 sums of 54 products in another order
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for a, b in zip(pull_found(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.usefixtures("everything_is_a_product")
def test_product_of_stacked_inputs_equals_each_alone() -> None:
    xs, kernel = draw(3, 2, 6, 6, 5), draw(3, 3, 5, 4)
    one = lambda x: convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **OPTIONS)
    stacked = jax.jit(jax.vmap(one))(xs)
    np.testing.assert_allclose(stacked, jnp.stack([one(x) for x in xs]), atol=1e-5)


@pytest.mark.parametrize(("platform", "is_product"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_programs_for_cpus_have_the_product(platform: str, is_product: bool) -> None:
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 512), (3, 3, 512, 512)))
    program = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **OPTIONS))
    text = program.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" not in text) == is_product


@pytest.mark.parametrize("shape", [(1, 32, 32, 512), (1, 8, 8, 64)])
def test_large_maps_and_small_kernels_stay_convolutions(shape: tuple[int, ...]) -> None:
    channels = shape[-1]
    x, kernel = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32)
    program = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **OPTIONS))
    assert "stablehlo.convolution" in program.lower(x, kernel).as_text()
