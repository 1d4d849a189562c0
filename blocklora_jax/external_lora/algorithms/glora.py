"""GLoRA: W a1 a2 + b1 b2, where W is the base's weight.

Files of LyCORIS before version 1.9 have the same names for the transposed order, W a2 a1 + b2 b1.

Source: GLoRA (arXiv 2306.07967); LyCORIS `modules/glora.py`; ComfyUI `weight_adapter/glora.py`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand, required
from blocklora_jax.external_lora.changes import Change, Dense, Factors, add

_PARTS = ("a1", "a2", "b1", "b2")


def _ordered(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """a1 [n, r], a2 [r, n], b1 [m, r] and b2 [r, n, *window]."""
    a1, a2, b1, b2 = required(layer, *_PARTS)
    demand(all(part.ndim in (2, 4) and part.size > 0 for part in (a1, a2, b1, b2)))
    orders = [order for order in ((a1, a2, b1, b2), (a2, a1, b2, b1)) if _fits(*order)]
    demand(bool(orders))
    if len(orders) == 1 or layer.weight is None:
        return min(orders, key=lambda order: len(order[3]))
    # Between square weights and large ranks only the base tells which order it is.
    sides = layer.weight.shape[:2]
    return min(orders, key=lambda order: ((len(order[2]), order[3].shape[1]) != sides, len(order[3])))


def _fits(a1: np.ndarray, a2: np.ndarray, b1: np.ndarray, b2: np.ndarray) -> bool:
    rank = len(b2)
    narrow = all(part.shape[2:] in ((), (1, 1)) for part in (a1, a2, b1))
    return narrow and a1.shape[1] == b1.shape[1] == len(a2) == rank and len(a1) == a2.shape[1] == b2.shape[1]


def _shape(layer: Layer) -> tuple[int, ...]:
    _, _, b1, b2 = _ordered(layer)
    if "bm" not in layer.parts:
        return (len(b1), *b2.shape[1:])
    core = layer.parts["bm"]
    demand(core.ndim == 4 and core.shape[:2] == (len(b2), len(b2)) and b2.shape[2:] in ((), (1, 1)))
    return (len(b1), b2.shape[1], *core.shape[2:])


def _change(layer: Layer) -> Change:
    a1, a2, b1, b2 = _ordered(layer)
    a1, a2, b1 = (part.reshape(part.shape[:2]) for part in (a1, a2, b1))
    if "bm" in layer.parts:
        b2 = np.einsum("pqhw,qn->pnhw", layer.parts["bm"], b2.reshape(b2.shape[:2]))
    added, base = Factors(b1, b2), layer.base
    if prod(base.shape[2:]) == 1:
        turned = Factors(base.reshape(base.shape[:2]) @ a1, a2.reshape(*a2.shape, *base.shape[2:]))
        return add(Factors(b1, b2.reshape(len(b2), *base.shape[1:])), turned)
    return add(Dense(np.einsum("ijhw,jk->ikhw", base, a1 @ a2)), added)


GLORA = Algorithm(
    name="GLoRA",
    title="a GLoRA (generalised LoRA)",
    marks=frozenset(_PARTS),
    others=frozenset({"bm"}),
    shape=_shape,
    change=_change,
    rank=lambda layer: len(_ordered(layer)[3]),
    needs_base=True,
)
