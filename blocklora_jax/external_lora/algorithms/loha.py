"""LoHa: the Hadamard product of two pairs, (w1_a w1_b) * (w2_a w2_b), with cores t1 and t2 in convolutions.

Source: FedPara (arXiv 2108.06098); LyCORIS `functional/loha.py`; peft `tuners/loha`.
"""

from __future__ import annotations

import numpy as np

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand, required
from blocklora_jax.external_lora.changes import Change, Factors, hadamard
from blocklora_jax.layouts.lora_layers import kernel_size

_PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_CORES = ("hada_t1", "hada_t2")


def _shape(layer: Layer) -> tuple[int, ...]:
    one_a, one_b, two_a, two_b = required(layer, *_PARTS)
    demand(all(part.ndim == 2 and part.size > 0 for part in (one_a, one_b, two_a, two_b)))
    if not set(_CORES) & layer.parts.keys():
        demand(one_a.shape[1] == len(one_b) and two_a.shape[1] == len(two_b))
        demand(len(one_a) == len(two_a) and one_b.shape[1] == two_b.shape[1])
        return (len(one_a), *_window(layer, one_b.shape[1]))
    cores = required(layer, *_CORES)
    for core, a, b in zip(cores, (one_a, two_a), (one_b, two_b), strict=True):
        demand(core.ndim == 4 and core.shape[:2] == (len(a), len(b)))
    demand(cores[0].shape[2:] == cores[1].shape[2:])
    demand(one_a.shape[1] == two_a.shape[1] and one_b.shape[1] == two_b.shape[1])
    return (one_a.shape[1], one_b.shape[1], *cores[0].shape[2:])


def _window(layer: Layer, columns: int) -> tuple[int, ...]:
    """The inputs and the window: without a core, a convolution's down projection is stored as [r, inputs * h * w]."""
    wide = layer.component == "unet" and kernel_size(layer.path) == 3
    demand(not wide or columns % 9 == 0)
    return (columns // 9, 3, 3) if wide else (columns,)


def _change(layer: Layer) -> Change:
    outputs, *inputs = _shape(layer)
    halves = []
    for number in (1, 2):
        a, b = (layer.parts[f"hada_w{number}_{side}"] for side in "ab")
        core = layer.parts.get(f"hada_t{number}")
        if core is None:
            halves.append(Factors(a, b.reshape(len(b), *inputs)))
        else:
            halves.append(Factors(np.ascontiguousarray(a.T), np.einsum("ijhw,jn->inhw", core, b)))
    assert len(halves[0].up) == outputs
    return hadamard(*halves)


LOHA = Algorithm(
    name="LoHa",
    title="a LoHa (Hadamard product)",
    marks=frozenset(_PARTS),
    others=frozenset(_CORES),
    shape=_shape,
    change=_change,
    rank=lambda layer: len(layer.parts["hada_w1_b"]),
    peft_type="LOHA",
)
