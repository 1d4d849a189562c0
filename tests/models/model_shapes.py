"""Parameter trees without running `init`: shapes of Stable Diffusion at full size, and small random models."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from blocklora_jax.testing.random_folder import PUBLISHED

ROOT = Path(__file__).parents[2]


def read_config(component: str, model: str = "sd15") -> dict:
    """The published config.json of a component."""
    return json.loads((PUBLISHED / model / f"{component}.json").read_text())


def reference_shapes(component: str) -> dict[str, tuple[int, ...]]:
    """{path: shape} in the trees that diffusers' Flax models had."""
    shapes = json.loads((ROOT / "tests" / "data" / "sd15_param_shapes.json").read_text())[component]
    return {path: tuple(shape) for path, shape in shapes.items()}


def unet_reference_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """The same for the U-Nets of "sd21" and "sdxl"."""
    packed = (ROOT / "tests" / "data" / "unet_param_shapes.json.gz").read_bytes()
    return {path: tuple(shape) for path, shape in json.loads(gzip.decompress(packed))[model].items()}


def model_shapes(model, *inputs) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the parameters that `model.init` would make. All must be fp32."""
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    flat = flatten_dict(params, sep="/")
    assert {leaf.dtype.name for leaf in flat.values()} == {"float32"}
    return {path: leaf.shape for path, leaf in flat.items()}


def random_params(model, *inputs):
    """Seeded random parameters of `model`. `init` is not used, because it takes longer to compile than the model."""
    generator = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        noise = generator.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return jax.numpy.asarray(noise if leaf.ndim > 1 else 0.5 + 0.2 * noise, leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"])
