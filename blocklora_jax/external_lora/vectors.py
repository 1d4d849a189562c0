"""Changes of vectors: biases of layers, and scales and biases of norms. A low-rank pair cannot hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.algorithms.ia3 import on_inputs
from blocklora_jax.external_lora.algorithms.layer import Layer

# The part of a norm's scale, and of any bias. A norm may also have its scale in `diff`.
_SCALES = ("w_norm", "diff")
_BIASES = ("b_norm", "diff_b")
VECTOR_PARTS = frozenset({"w_norm", *_BIASES, "up_bias"})


def norm_vectors(layer: Layer) -> dict[str, Float[np.ndarray, " c"]]:
    """{"…/norm1/scale": …, "…/norm1/bias": …}. Raises ValueError for parts that no norm has, or of other shapes."""
    if wrong := layer.parts.keys() - {*_SCALES, *_BIASES}:
        raise ValueError(f"is a norm and has {', '.join(sorted(wrong))}")
    path = f"{layer.component}/{layer.path}"
    parts = {f"{path}/scale": _first(layer.parts, _SCALES), f"{path}/bias": _first(layer.parts, _BIASES)}
    return {path: _checked(vector) for path, vector in parts.items() if vector is not None}


def bias_vectors(
    layer: Layer, scale: float, base_bias: Float[np.ndarray, " c"] | None
) -> dict[str, Float[np.ndarray, " c"]]:
    """{"…/conv1/bias": …} if the layer's bias is changed. scale: of the pair. base_bias: the base's, if at hand."""
    path, bias = f"{layer.component}/{layer.path}/bias", _first(layer.parts, _BIASES)
    if bias is None and "up_bias" in layer.parts:
        bias = layer.parts["up_bias"] * np.float32(scale)
    if bias is None and "ia3_l" in layer.parts and base_bias is not None and not on_inputs(layer):
        # PEFT scales the whole output, so that the bias is scaled too.
        bias = base_bias * (layer.parts["ia3_l"].reshape(-1) - np.float32(1))
    return {} if bias is None else {path: _checked(bias)}


def _first(parts: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((parts[name] for name in names if name in parts), None)


def _checked(vector: np.ndarray) -> np.ndarray:
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"changes a vector by an array of shape {list(vector.shape)}")
    return vector
