"""What is wrong with the parts of a layer, checked before anything large is computed from them."""

from __future__ import annotations

from math import prod

import numpy as np

from blocklora_jax.external_lora.algorithms.dora import MAGNITUDES, scales_outputs
from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer
from blocklora_jax.layouts.lora_layers import kernel_size

# Numbers in the largest weight: twice those of a 3x3 convolution of 2560 inputs and outputs.
_MOST_NUMBERS = 1 << 27
_SHARED = frozenset({"alpha", "scalar", "diff_b", *MAGNITUDES})


def shape_problem(kind: Algorithm | None, layer: Layer) -> str | None:
    """What is wrong with a layer's parts and their shapes; None if nothing is. kind: None if only a bias is changed."""
    if kind is None:
        return None if layer.parts.keys() == {"diff_b"} else f"has only {', '.join(sorted(layer.parts))}"
    if layer.parts.keys() >= set(MAGNITUDES):
        return "has lengths of two kinds, dora_scale and lora_magnitude_vector"
    if extra := layer.parts.keys() - kind.marks - kind.others - _SHARED:
        return f"is {kind.title} and has {', '.join(sorted(extra))} too"
    if (wrong := _numbers_problem(layer)) is not None:
        return wrong
    try:
        shape = kind.shape(layer)
        if layer.weight is not None and any(name in layer.parts for name in MAGNITUDES):
            scales_outputs(layer)
    except ValueError as error:
        return str(error) or _empty(layer) or _misshapen(layer)
    if shape is None:
        return None
    if prod(shape) > _MOST_NUMBERS:
        return f"would change a weight of shape {list(shape)}, which no model has"
    size = kernel_size(layer.path) if layer.component == "unet" else None
    if not (shape[2:] == (3, 3) if size == 3 else shape[2:] in ((), (1, 1))):
        return _misshapen(layer)
    if layer.weight is not None and _without_window(shape) != _without_window(layer.weight.shape):
        return f"has the shape {list(shape)}, and in the base model {list(layer.weight.shape)}"
    return None


def finite_problem(layer: Layer) -> str | None:
    """Whether a part has values that are not finite."""
    finite = all(np.isfinite(part).all() for part in layer.parts.values())
    return None if finite else "has values that are not finite"


def _numbers_problem(layer: Layer) -> str | None:
    for name in ("alpha", "scalar"):
        if name in layer.parts and layer.parts[name].size != 1:
            article = "an" if name == "alpha" else "a"
            return f"has {article} {name} of shape {list(layer.parts[name].shape)}"
    return None


def _empty(layer: Layer) -> str | None:
    empty = any(not part.size for part in layer.parts.values())
    return f"has nothing in it: {_shapes(layer)}" if empty else None


def _misshapen(layer: Layer) -> str:
    return f"is misshapen: {_shapes(layer)}"


def _shapes(layer: Layer) -> str:
    parts = {name: part for name, part in layer.parts.items() if name not in ("alpha", "scalar")}
    order = {"down": 0, "up": 1}
    return ", ".join(f"{name} {list(parts[name].shape)}" for name in sorted(parts, key=lambda n: (order.get(n, 2), n)))


def _without_window(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape
