"""LoRA and LoCon: up @ down, with a core between them in LyCORIS' form of convolutions (`lora_mid`).

Source: LoRA (arXiv 2106.09685); LyCORIS `functional/locon.py`.
"""

from __future__ import annotations

import numpy as np

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand, required
from blocklora_jax.external_lora.changes import Change, Factors


def _shape(layer: Layer) -> tuple[int, ...]:
    down, up = required(layer, "down", "up")
    mid = layer.parts.get("mid")
    demand({down.ndim, up.ndim} <= {2, 4} and down.size > 0 and up.size > 0)
    demand(up.shape[1] == down.shape[0] and up.shape[2:] in ((), (1, 1)))
    if mid is None:
        return (up.shape[0], *down.shape[1:])
    demand(mid.ndim == 4 and mid.shape[:2] == (len(down), len(down)) and down.shape[2:] in ((), (1, 1)))
    return (up.shape[0], down.shape[1], *mid.shape[2:])


def _change(layer: Layer) -> Change:
    down, up = layer.parts["down"], layer.parts["up"]
    if "mid" in layer.parts:
        # up . mid . down is an ordinary pair of the same rank. mid's second axis has the outputs of down.
        down = np.einsum("pqhw,qn->pnhw", layer.parts["mid"], down.reshape(len(down), -1))
    return Factors(up.reshape(up.shape[:2]), down)


LORA = Algorithm(
    name="LoRA",
    title="a LoRA",
    marks=frozenset({"down", "up"}),
    others=frozenset({"mid", "up_bias"}),
    shape=_shape,
    change=_change,
    rank=lambda layer: len(layer.parts["down"]),
    peft_type="LORA",
)
