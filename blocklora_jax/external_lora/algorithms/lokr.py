"""LoKr: the Kronecker product of w1 and w2, each a matrix or a pair, w2 with a core t2 in convolutions.

Source: LyCORIS (arXiv 2309.14859), `functional/lokr.py`; peft `tuners/lokr`.
"""

from __future__ import annotations

import numpy as np

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand, required
from blocklora_jax.external_lora.changes import Change, Dense, Factors, kronecker
from blocklora_jax.layouts.lora_layers import kernel_size

_PARTS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")


def _shape(layer: Layer) -> tuple[int, ...]:
    for side in ("lokr_w1", "lokr_w2"):
        factored = {f"{side}_a", f"{side}_b", *(["lokr_t2"] if side == "lokr_w2" else [])} & layer.parts.keys()
        if side in layer.parts and factored:
            raise ValueError(f"has {side} and also {', '.join(sorted(factored))}")
    left, right = _left(layer), _right(layer)
    demand(all(left) and all(right))
    return tuple(a * b for a, b in zip(left[:2], right[:2], strict=True)) + right[2:]


def _left(layer: Layer) -> tuple[int, ...]:
    if "lokr_w1" in layer.parts:
        demand(layer.parts["lokr_w1"].ndim == 2 and layer.parts["lokr_w1"].size > 0)
        return layer.parts["lokr_w1"].shape
    a, b = required(layer, "lokr_w1_a", "lokr_w1_b")
    demand(a.ndim == b.ndim == 2 and a.shape[1] == len(b) > 0)
    return (len(a), b.shape[1])


def _right(layer: Layer) -> tuple[int, ...]:
    if "lokr_w2" in layer.parts:
        demand(layer.parts["lokr_w2"].ndim in (2, 4) and layer.parts["lokr_w2"].size > 0)
        return layer.parts["lokr_w2"].shape
    a, b = required(layer, "lokr_w2_a", "lokr_w2_b")
    core = layer.parts.get("lokr_t2")
    if core is not None:
        demand(a.ndim == b.ndim == 2 and core.ndim == 4 and core.shape[:2] == (len(a), len(b)))
        return (a.shape[1], b.shape[1], *core.shape[2:])
    demand(a.ndim == 2 and b.ndim in (2, 4) and a.shape[1] == len(b) > 0)
    if b.ndim == 4:
        return (len(a), *b.shape[1:])
    wide = layer.component == "unet" and kernel_size(layer.path) == 3
    demand(not wide or b.shape[1] % 9 == 0)
    # Without a core a convolution's w2_b is stored as [r, inputs * h * w].
    return (len(a), b.shape[1] // 9, 3, 3) if wide else (len(a), b.shape[1])


def _change(layer: Layer) -> Change:
    parts = layer.parts
    left = Dense(parts["lokr_w1"]) if "lokr_w1" in parts else Factors(parts["lokr_w1_a"], parts["lokr_w1_b"])
    if "lokr_w2" in parts:
        return kronecker(left, Dense(parts["lokr_w2"]))
    a, b = parts["lokr_w2_a"], parts["lokr_w2_b"]
    if "lokr_t2" in parts:
        return kronecker(left, Factors(np.ascontiguousarray(a.T), np.einsum("ijhw,jn->inhw", parts["lokr_t2"], b)))
    return kronecker(left, Factors(a, b.reshape(len(b), *_right(layer)[1:])))


def _rank(layer: Layer) -> int | None:
    """The rank of the factored side. If both sides are whole, alpha is not a scale."""
    sides = ("lokr_w2_b" if "lokr_w2" not in layer.parts else "", "lokr_w1_b" if "lokr_w1" not in layer.parts else "")
    return next((len(layer.parts[side]) for side in sides if side), None)


LOKR = Algorithm(
    name="LoKr",
    title="a LoKr (Kronecker product)",
    marks=frozenset(_PARTS),
    others=frozenset({"lokr_t2"}),
    shape=_shape,
    change=_change,
    rank=_rank,
    peft_type="LOKR",
)
