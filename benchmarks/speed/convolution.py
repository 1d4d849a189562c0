"""3x3 convolutions on a core, by XLA and as a product: `taskset -c 0 python -m benchmarks.speed.convolution`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from blocklora_jax.models import convolution

# Height and width of the map, input channels, output channels.
SHAPES = ((4, 1280, 1280), (8, 1280, 1280), (8, 2560, 1280), (16, 1280, 1280), (32, 320, 320))
STRIDES, PADDING = (1, 1), ((1, 1), (1, 1))


def milliseconds(function: Callable[..., Any], *inputs: Any) -> float:
    """The median of seven calls after the first."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*inputs))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own form."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, STRIDES, PADDING, dimension_numbers=numbers)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One matrix product."""
    return convolution.as_product(x, kernel, STRIDES, PADDING)


def main() -> None:
    """Print a table, in milliseconds."""
    print(f"{'map and channels':>24} {'forward: XLA':>13} {'product':>9} {'gradient: XLA':>14} {'product':>9}")
    rng = np.random.default_rng(0)
    for side, channels, features in SHAPES:
        x, kernel, g = (
            jax.device_put(rng.standard_normal(shape, np.float32))
            for shape in ((1, side, side, channels), (3, 3, channels, features), (1, side, side, features))
        )
        forward = [milliseconds(form, x, kernel) for form in (plain, product)]
        gradient = [
            milliseconds(lambda x, kernel, g, form=form: jax.vjp(lambda x: form(x, kernel), x)[1](g), x, kernel, g)
            for form in (plain, product)
        ]
        name = f"{side} x {side}, {channels} to {features}"
        print(f"{name:>24} {forward[0]:13.1f} {forward[1]:9.1f} {gradient[0]:14.1f} {gradient[1]:9.1f}", flush=True)


if __name__ == "__main__":
    main()
