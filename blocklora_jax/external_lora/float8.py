"""Tensors of 8-bit floats, with the scales that ComfyUI and others store beside them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blocklora_jax.errors import UserError

# Endings of the scale's name, after the tensor's name without `.weight`, or after the whole name.
_SCALES = (".scale_weight", ".weight_scale", "_scale", "_scale_inv", ".scale")
# Scales of inputs and marks of the format, which say nothing of the weights.
_UNUSED = (".scale_input", ".input_scale", ".comfy_quant")
_MARKS = frozenset({"scaled_fp8", "diffusion_model.scaled_fp8"})


def unscaled(tensors: Mapping[str, np.ndarray], path: object) -> dict[str, np.ndarray]:
    """`tensors` with each scale multiplied into its tensor, which becomes fp32, and without scales and marks.

    Only the scale of a tensor in 8 bits is one. Raises UserError for a scale of a shape that does not fit.
    """
    scales: dict[str, str] = {}
    for key, tensor in tensors.items():
        if is_float8(tensor.dtype):
            scales |= {scale: key for scale in _scale_names(key) if scale in tensors and scale != key}
    if not scales and not any(map(_is_unused, tensors)):
        return dict(tensors)
    values = {key: tensor for key, tensor in tensors.items() if key not in scales and not _is_unused(key)}
    for scale, key in scales.items():
        values[key] = _product(values[key], tensors[scale], f"{path}: {scale}")
    return values


def is_float8(dtype: np.dtype) -> bool:
    """Whether numbers have 8 bits and are floats."""
    return dtype.itemsize == 1 and dtype.name.startswith("float8")


def is_scale(key: str) -> bool:
    """Whether a name may be that of a scale or a mark."""
    return key.endswith(_SCALES) or _is_unused(key)


def _is_unused(key: str) -> bool:
    return key in _MARKS or key.endswith(_UNUSED)


def _scale_names(key: str) -> list[str]:
    heads = {key, key.removesuffix(".weight")}
    return [head + ending for head in heads for ending in _SCALES]


def _product(tensor: np.ndarray, scale: np.ndarray, name: str) -> np.ndarray:
    values, factor = np.asarray(tensor, np.float32), np.asarray(scale, np.float32)
    if factor.size == 1:
        return values * factor.reshape(())
    if values.ndim and factor.size == factor.shape[0] == values.shape[0]:
        return values * factor.reshape(-1, *(1,) * (values.ndim - 1))
    raise UserError(f"{name} has the shape {list(factor.shape)}: one number for all, or one for each row, is read")
