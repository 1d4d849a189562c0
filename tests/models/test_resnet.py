import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.models import recompute
from blocklora_jax.models.resnet import GroupNorm, conv1x1, resize_nearest


def test_group_norm_stays_exact_far_from_zero():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 12))
    norm = GroupNorm(num_groups=3, epsilon=1e-5)
    shifted = jnp.asarray(x + 1000, jnp.float32)
    params = norm.init(jax.random.key(0), shifted)
    grouped = x.reshape(2, 16, 3, 4)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    truth = (centred / np.sqrt(centred.var((1, 3), keepdims=True) + 1e-5)).reshape(x.shape)
    # fp32 holds 1000 + x only to 6e-5, and the mean of 64 such numbers about as well.
    np.testing.assert_allclose(norm.apply(params, shifted), truth, atol=2e-4)


def test_group_norm_of_bf16_is_the_rounded_fp32_one():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 12)).astype(jnp.bfloat16)
    narrow, wide = (GroupNorm(num_groups=3, epsilon=1e-5, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    params = wide.init(jax.random.key(0), x)
    out = narrow.apply(params, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, wide.apply(params, x).astype(jnp.bfloat16))


def test_pointwise_convolution_is_the_ordinary_one():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 6))
    ours, ordinary = conv1x1(7, jnp.float32), nn.Conv(7, (1, 1))
    params = ours.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ordinary.init(jax.random.key(1), x))
    np.testing.assert_allclose(ours.apply(params, x), ordinary.apply(params, x), atol=1e-5)  # sums in another order


@pytest.mark.parametrize(("height", "width"), [(10, 6), (9, 5), (11, 7), (10, 5)])
def test_nearest_resize_picks_the_pixel_that_torch_picks(height, width):
    x = jnp.arange(2 * 5 * 3 * 4.0).reshape(2, 5, 3, 4)
    out = resize_nearest(x, height, width)
    assert out.shape == (2, height, width, 4)
    for i in range(height):
        for j in range(width):
            np.testing.assert_array_equal(out[:, i, j], x[:, i * 5 // height, j * 3 // width])


@pytest.mark.parametrize("silu", [False, True])
def test_a_norm_that_is_computed_again_has_the_same_values_and_gradients(silu, monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 12))
    kept, again = (GroupNorm(3, 1e-5, silu=silu, recompute=wanted) for wanted in (False, True))
    params = kept.init(jax.random.key(1), x)
    gradients = lambda norm: jax.grad(lambda params, x: jnp.square(norm.apply(params, x) + 1).sum(), argnums=(0, 1))
    # Small inputs are kept.
    assert "remat" not in str(jax.make_jaxpr(gradients(again))(params, x))
    monkeypatch.setattr(recompute, "KEPT_NUMBERS", x.size)
    assert "remat" in str(jax.make_jaxpr(gradients(again))(params, x))
    for one, other in zip(*(jax.tree.leaves(gradients(norm)(params, x)) for norm in (kept, again)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # the largest are about 10
