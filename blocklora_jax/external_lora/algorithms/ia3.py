"""IA3: the inputs or the outputs of a layer are scaled.

LyCORIS stores the change of the scale (0 changes nothing), PEFT the scale itself (1 changes nothing).

Source: IA3 (arXiv 2205.05638); LyCORIS `modules/ia3.py`; peft `tuners/ia3`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand, required
from blocklora_jax.external_lora.changes import Change, Dense
from blocklora_jax.external_lora.peft_patterns import matches_whole
from blocklora_jax.layouts.lora_layers import module_name


def _shape(layer: Layer) -> None:
    scales, on_input = required(layer, "ia3_weight", "on_input")
    demand(on_input.size == 1)
    _demand_scales(layer, scales, bool(on_input.any()))


def _change(layer: Layer) -> Change:
    return _scaled(layer, layer.parts["ia3_weight"].reshape(-1), bool(layer.parts["on_input"].any()))


def _peft_shape(layer: Layer) -> None:
    demand(layer.parts["ia3_l"].ndim in (2, 4))
    _demand_scales(layer, layer.parts["ia3_l"], on_inputs(layer))


def on_inputs(layer: Layer) -> bool:
    """Whether a layer of PEFT's IA3 scales its inputs: [1, n] and not [m, 1]; a convolution's settings say it."""
    scales = layer.parts["ia3_l"]
    if scales.ndim == 2 and scales.size > 1:
        return len(scales) == 1
    modules = layer.settings.get("feedforward_modules") or ()
    name = module_name(layer.component, layer.path)
    return matches_whole(modules, name) if isinstance(modules, str) else name.endswith(tuple(modules))


def _peft_change(layer: Layer) -> Change:
    return _scaled(layer, layer.parts["ia3_l"].reshape(-1) - np.float32(1), on_inputs(layer))


def _demand_scales(layer: Layer, scales: np.ndarray, on_input: bool) -> None:
    demand(scales.size > 0)
    demand(layer.weight is None or scales.size == layer.weight.shape[1 if on_input else 0])


def _scaled(layer: Layer, scales: Float[np.ndarray, " c"], on_input: bool) -> Dense:
    """The base's weight, of which each input or output is multiplied by its number."""
    shape = [1] * layer.base.ndim
    shape[1 if on_input else 0] = scales.size
    return Dense(scales.reshape(shape) * layer.base)


IA3 = Algorithm(
    name="IA3",
    title="an IA3 (rescaled activations)",
    marks=frozenset({"ia3_weight", "on_input"}),
    others=frozenset(),
    shape=_shape,
    change=_change,
    needs_base=True,
)
PEFT_IA3 = Algorithm(
    name="IA3 of PEFT",
    title="an IA3 (rescaled activations) in PEFT's form",
    marks=frozenset({"ia3_l"}),
    others=frozenset(),
    shape=_peft_shape,
    change=_peft_change,
    needs_base=True,
    peft_type="IA3",
)
