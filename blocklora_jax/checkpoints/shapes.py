"""The parameters that a model must have, and how a set of tensors differs from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.torch_names import flip_axes, to_flax, torch_key
from blocklora_jax.models.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from blocklora_jax.models.config import SIZE_IDS, TextConfig, TextProjectionConfig, UNetConfig, VAEConfig
from blocklora_jax.models.unet import AddedConditions, UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL

Config = UNetConfig | VAEConfig | TextConfig
Shape = tuple[int, ...]
_SHOWN = 6


@lru_cache(maxsize=16)
def param_shapes(config: Config) -> Mapping[str, Shape]:
    """Shape of every parameter of the model that `config` describes, by Flax path. Nothing is computed."""
    model, inputs = _model_and_inputs(config)
    variables = jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x), *inputs)
    return {path: leaf.shape for path, leaf in flatten_params(variables["params"]).items()}


def compare_tensors(component: str, config: Config, tensors: Mapping[str, Shape]) -> list[str]:
    """Describe how a PyTorch file's tensors differ from those that `config` requires; an empty list if they do not.

    Args:
        component: "unet", "vae", "text_encoder" or "text_encoder_2".
        config: its config.
        tensors: shapes by key, as in the file. There may be buffers, which are not parameters.
    """
    shapes: dict[str, Shape] = {}
    keys: dict[str, str] = {}
    extra, problems = [], []
    for key, shape in tensors.items():
        try:
            entry = flatten_params(to_flax(component, {key: np.broadcast_to(np.float32(0), shape)}))
        except UserError:
            extra.append(key)
            continue
        for path, array in entry.items():
            if path in keys:
                problems.append(f"{keys[path]} and {key} are the same parameter")
            keys[path], shapes[path] = key, array.shape
    return problems + compare_params(component, config, shapes, extra)


def compare_params(
    component: str, config: Config, found: Mapping[str, Shape], extra: list[str] | None = None
) -> list[str]:
    """Like `compare_tensors`, for shapes `found` by Flax path. Names and shapes in the result are PyTorch's."""
    expected = param_shapes(config)
    missing = [_torch_name(component, path) for path in sorted(expected.keys() - found.keys())]
    extra = (extra or []) + [_torch_name(component, path) for path in sorted(found.keys() - expected.keys())]
    wrong = sorted(path for path in expected.keys() & found.keys() if expected[path] != found[path])
    mismatched = [_describe_shapes(component, path, found[path], expected[path]) for path in wrong[:_SHOWN]]
    groups = [(missing, len(missing), "missing"), (extra, len(extra), "not expected")]
    groups.append((mismatched, len(wrong), "of another shape"))
    return [f"{count} {what} ({_shorten(names, count)})" for names, count, what in groups if count]


def torch_shape(path: str, shape: Shape) -> Shape:
    """Shape of PyTorch's tensor for the parameter at a Flax path."""
    return flip_axes(path, np.broadcast_to(np.bool_(0), shape), to_torch=True).shape


def _model_and_inputs(config: Config) -> tuple[nn.Module, tuple[Any, ...]]:
    if isinstance(config, TextConfig):
        is_second = isinstance(config, TextProjectionConfig)
        model = CLIPTextModelWithProjection(config) if is_second else CLIPTextModel(config)
        return model, (_shape(1, 1, dtype=jnp.int32),)
    side = 2 ** len(config.block_out_channels)
    image = _shape(1, side, side, config.in_channels)
    if isinstance(config, VAEConfig):
        return AutoencoderKL(config), (image,)
    added = ()
    if config.addition_embed_type:
        added = (AddedConditions(_shape(1, config.pooled_width), _shape(1, SIZE_IDS)),)
    text = _shape(1, 1, config.cross_attention_dim)
    return UNet2DConditionModel(config), (image, _shape(1), text, *added)


def _shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
    """An array that is not there, so that nothing is compiled."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def _torch_name(component: str, path: str) -> str:
    try:
        return torch_key(component, path)
    except UserError:
        return path


def _describe_shapes(component: str, path: str, found: Shape, expected: Shape) -> str:
    stored, wanted = (list(torch_shape(path, shape)) for shape in (found, expected))
    return f"{_torch_name(component, path)} is {stored} instead of {wanted}"


def _shorten(names: list[str], count: int) -> str:
    more = f", and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
