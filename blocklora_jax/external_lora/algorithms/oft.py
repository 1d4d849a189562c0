"""OFT: the base's weight is rotated, in blocks of its outputs (LyCORIS, kohya) or of its inputs (PEFT, OneTrainer).

Source: OFT (arXiv 2306.07280); LyCORIS `functional/diag_oft.py`; peft `tuners/oft`.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand
from blocklora_jax.external_lora.algorithms.rotations import cayley, cayley_series, constrained, rotated, skew_of
from blocklora_jax.external_lora.changes import Change, Dense

# The terms of PEFT's series where its settings say nothing.
_TERMS = 5


def _shape(layer: Layer) -> None:
    blocks = layer.parts["oft_blocks"]
    demand(blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2] > 0)
    demand_outputs(layer, len(blocks) * blocks.shape[1])


def _change(layer: Layer) -> Change:
    weight, blocks = layer.base, np.asarray(layer.parts["oft_blocks"], np.float64)
    # alpha is a bound for the norm of Q, for each output.
    skew = constrained(blocks - blocks.swapaxes(1, 2), layer.number("alpha", 0.0) * len(weight))
    flat = rotated(cayley(skew), weight.reshape(len(weight), -1))
    return Dense(difference(flat, layer))


def demand_outputs(layer: Layer, count: int) -> None:
    """Raises ValueError unless the base's weight has so many outputs, and "rescale" a number for each."""
    if layer.weight is not None:
        demand(count == len(layer.weight))
        demand("rescale" not in layer.parts or layer.parts["rescale"].size == count)


def difference(flat: np.ndarray, layer: Layer) -> np.ndarray:
    """The change from the base's weight to `flat` [m, c], whose rows are scaled by "rescale" first."""
    if "rescale" in layer.parts:
        flat = flat * np.asarray(layer.parts["rescale"], np.float64).reshape(-1, 1)
    return (flat.reshape(layer.base.shape) - layer.base).astype(np.float32)


def _input_shape(layer: Layer) -> None:
    upper = layer.parts["oft_R"]
    demand(upper.ndim == 2 and _size(upper.shape[1]) > 1)
    if layer.weight is not None:
        inputs = layer.weight[0].size
        size = _size(upper.shape[1])
        demand(inputs == size * len(upper) or (len(upper) == 1 and inputs % size == 0))


def _size(numbers: int) -> int:
    """The size of a matrix with so many numbers above its diagonal; 0 if there is none."""
    size = (1 + isqrt(1 + 8 * numbers)) // 2
    return size if size * (size - 1) // 2 == numbers else 0


def _input_change(layer: Layer) -> Change:
    upper, weight = np.asarray(layer.parts["oft_R"], np.float64), layer.base
    skew = skew_of(upper, _size(upper.shape[1]))
    if layer.settings.get("use_cayley_neumann", True):
        blocks = cayley_series(skew, layer.settings.get("num_cayley_neumann_terms") or _TERMS)
    else:
        blocks = cayley(-skew)
    flat = weight.reshape(len(weight), -1)
    blocks = np.broadcast_to(blocks, (flat.shape[1] // blocks.shape[1], *blocks.shape[1:]))
    # The inputs are rotated, x R, and so is each row of the weight: W R^T.
    return Dense(difference(rotated(blocks.swapaxes(1, 2), flat.T).T, layer))


OFT = Algorithm(
    name="OFT",
    title="an OFT (orthogonal finetuning)",
    marks=frozenset({"oft_blocks"}),
    others=frozenset({"rescale"}),
    shape=_shape,
    change=_change,
    needs_base=True,
)
INPUT_OFT = Algorithm(
    name="OFT of inputs",
    title="an OFT (orthogonal finetuning) in PEFT's form",
    marks=frozenset({"oft_R"}),
    others=frozenset(),
    shape=_input_shape,
    change=_input_change,
    needs_base=True,
    peft_type="OFT",
)
