"""DoRA: the changed weight gets new lengths, of its rows or of its columns. Any kind can be decomposed in this way.

    W' = m (W + D) / |W + D|

Source: DoRA (arXiv 2402.09353); LyCORIS `functional/general.py` (`weight_decompose`); peft `tuners/lora/dora.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.algorithms.layer import Layer, demand
from blocklora_jax.external_lora.changes import Change, Dense, weight_of

DORA = "a DoRA (weight-decomposed LoRA)"
MAGNITUDES = ("magnitude", "output_magnitude")
# As in LyCORIS; PEFT adds nothing.
_LEAST = float(np.finfo(np.float32).eps)


def decomposed(change: Change, scale: float, layer: Layer) -> Dense:
    """The change of the base's weight with the new lengths in it, where `scale` times `change` is D."""
    weight = np.asarray(layer.base, np.float64)
    merged = weight + scale * np.asarray(weight_of(change), np.float64).reshape(weight.shape)
    by_output = scales_outputs(layer)
    axes = tuple(axis for axis in range(merged.ndim) if axis != (0 if by_output else 1))
    lengths = np.sqrt(np.sum(merged**2, axis=axes, keepdims=True)) + _LEAST
    return Dense((merged * (_magnitude(layer).reshape(lengths.shape) / lengths) - weight).astype(np.float32))


def scales_outputs(layer: Layer) -> bool:
    """Whether the lengths are those of outputs: [m, 1, …], and not [1, n, …]. PEFT's always are.

    Raises ValueError for a length of another shape than the base's weight.
    """
    magnitude, outputs, inputs = _magnitude(layer), layer.base.shape[0], layer.base.shape[1]
    if "output_magnitude" in layer.parts or magnitude.ndim < 2:
        demand(magnitude.size == outputs)
        return True
    by_output = len(magnitude) == magnitude.size == outputs
    demand(by_output or (len(magnitude) == 1 and magnitude.shape[1] == magnitude.size == inputs))
    return by_output


def _magnitude(layer: Layer) -> Float[np.ndarray, "..."]:
    return np.asarray(next(layer.parts[name] for name in MAGNITUDES if name in layer.parts), np.float64)
