"""Changes of vectors: biases of layers, and scales and biases of norms. A low-rank pair cannot hold them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.algorithms.ia3 import on_inputs
from blocklora_jax.external_lora.algorithms.layer import Layer

# The parts of a norm's scale, and of its bias.
_SCALES = ("w_norm", "diff")
_BIASES = ("b_norm", "diff_b")


def norm_vectors(layer: Layer) -> dict[str, Float[np.ndarray, " _"]]:
    """{"…/norm1/scale": …, "…/norm1/bias": …}. Raises ValueError for parts that no norm has, or of other shapes."""
    if wrong := layer.parts.keys() - {*_SCALES, *_BIASES}:
        raise ValueError(f"is a norm and has {', '.join(sorted(wrong))}")
    path, vectors = f"{layer.component}/{layer.path}", {}
    for name, parts in (("scale", _SCALES), ("bias", _BIASES)):
        given = [part for part in parts if part in layer.parts]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}, of which only one can be right")
        vectors |= {f"{path}/{name}": _checked(layer.parts[part]) for part in given}
    return vectors


def bias_vectors(
    layer: Layer, scale: float, base_bias: Float[np.ndarray, " c"] | None
) -> dict[str, Float[np.ndarray, " _"]]:
    """{"…/conv1/bias": …} if the layer's bias is changed. scale: of the pair. base_bias: the base's, if at hand."""
    parts, changes = layer.parts, []
    if "diff_b" in parts:
        changes.append(_checked(parts["diff_b"]))
    if "up_bias" in parts:
        changes.append(_checked(parts["up_bias"]) * np.float32(scale))
    if "ia3_l" in parts and base_bias is not None and not on_inputs(layer):
        # PEFT scales the whole output, so that the bias is scaled too.
        changes.append(base_bias * (parts["ia3_l"].reshape(-1) - np.float32(1)))
    if len({change.shape for change in changes}) > 1:
        raise ValueError(f"changes its bias by arrays of shapes {[list(change.shape) for change in changes]}")
    return {f"{layer.component}/{layer.path}/bias": np.sum(changes, axis=0)} if changes else {}


def _checked(vector: np.ndarray) -> np.ndarray:
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"changes a vector by an array of shape {list(vector.shape)}")
    return vector
