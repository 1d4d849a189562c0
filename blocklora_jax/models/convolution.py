"""3x3 convolutions, on CPUs as one matrix product where the map is small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Padding = Sequence[tuple[int, int]]

# On CPUs, XLA copies a kernel at every call, and copies it transposed for the gradient of the input. Where the kernel
# has more numbers than this and the map fewer pixels, the copy takes longer than the convolution: 1280 channels on
# 8 x 8 pixels take 3 times as long as a matrix product, and 8 times in the gradient. From 32 x 32 pixels up, or with
# the narrow kernels of the VAE's outer layers, XLA's own form is as fast and takes less memory.
_KERNEL_SIZE, _PIXELS = 2**21, 2**9


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` of x [b, h, w, i] with a kernel [k, k, i, o], in the form that is fastest.

    The form depends on the platform that the program is compiled for, so that it is right for every device.
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return as_product(x, kernel, window_strides, padding)

    batch, *size, _ = x.shape
    pixels = batch * size[0] * size[1] // (window_strides[0] * window_strides[1])
    if kernel.size < _KERNEL_SIZE or pixels > _PIXELS:
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=product, default=plain)


def as_product(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
    """The convolution as a product of all windows [b i j, k k c] with the kernel [k k c, o].

    The gradient of the input is then a product with the kernel as it is stored, and k^2 shifted additions.
    """
    high, wide, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True))
    windows = [
        x[:, i : i + (rows - 1) * strides[0] + 1 : strides[0], j : j + (columns - 1) * strides[1] + 1 : strides[1]]
        for i in range(high)
        for j in range(wide)
    ]
    flat = jnp.concatenate(windows, axis=-1).reshape(-1, high * wide * channels)
    return (flat @ kernel.reshape(-1, features)).reshape(x.shape[0], rows, columns, features)
