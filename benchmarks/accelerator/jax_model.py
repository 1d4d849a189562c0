"""A published model with random weights, made on the device."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.diffusion.models import Models, make_models
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.layouts.token_tables import TOKEN_TABLE
from blocklora_jax.testing.random_folder import read_configs
from train.engine.platform import compute_dtype, weights_dtype

# The number of random values that all weights repeat. Weights of one value would make a card faster than it is.
_POOL = 2**20

Params = dict[str, Any]


def configs_of(model: str, size: str) -> dict[str, Any]:
    """The configs of `model` by component. size: "full" or "tiny"."""
    raw = read_configs(model, small=size == "tiny")
    return {part: CONFIGS[part].from_json(values, part) for part, values in raw.items()}


def modules_of(configs: dict[str, Any], attention: Any = "auto", remat: bool = False) -> Models:
    """The modules, in the precision that training chooses for this device."""
    return make_models(configs, compute_dtype("auto", jax.default_backend()), remat, attention)


def random_params(configs: dict[str, Any]) -> Params:
    """Random parameters, in the types in which training keeps them on this device. The host makes none of them."""
    platform = jax.default_backend()
    kernels = weights_dtype("auto", compute_dtype("auto", platform), platform) or jnp.dtype(jnp.float32)
    pool = jax.random.normal(jax.random.key(0), (_POOL,))

    def leaf(path: str, shape: tuple[int, ...]) -> jax.Array:
        is_kernel = len(shape) >= 2 and TOKEN_TABLE not in path
        dtype = kernels if is_kernel else jnp.dtype(jnp.float32)
        scale = float(np.prod(shape[:-1])) ** -0.5 if is_kernel else 0.1
        return _fill(pool, shape, dtype.name, scale, float(path.endswith("scale")))

    return {
        part: unflatten_params({path: leaf(path, shape) for path, shape in param_shapes(config).items()})
        for part, config in configs.items()
    }


@functools.partial(jax.jit, static_argnums=(1, 2))
def _fill(pool: jax.Array, shape: tuple[int, ...], dtype: str, scale: float, shift: float) -> jax.Array:
    """The values of `pool`, as often as the shape needs them."""
    return (jnp.resize(pool, shape) * scale + shift).astype(dtype)


def memory_of(compiled: Any) -> dict[str, int] | None:
    """MiB of a compiled program: its arguments, what it needs beside them, and both. None if it is not told."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    # Results that replace arguments take no room of their own.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    arguments, beside = found.argument_size_in_bytes, found.temp_size_in_bytes + results
    sizes = {"arguments": arguments, "temporaries": beside, "peak": arguments + beside}
    return {name: round(size / 2**20) for name, size in sizes.items()}


def device_peak() -> int | None:
    """MiB that JAX has taken at most since this process began; None if the device does not tell."""
    stats = jax.devices()[0].memory_stats() or {}
    return round(stats["peak_bytes_in_use"] / 2**20) if "peak_bytes_in_use" in stats else None
