"""Full differences (`diff`), and whole new weights (`set_weight`).

Source: LyCORIS `modules/full.py`; ComfyUI `comfy/lora.py`.
"""

from __future__ import annotations

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand
from blocklora_jax.external_lora.changes import Dense


def _shape(part: str):
    def shape(layer: Layer) -> tuple[int, ...]:
        demand(layer.parts[part].ndim in (2, 4) and layer.parts[part].size > 0)
        return layer.parts[part].shape

    return shape


FULL = Algorithm(
    name="full",
    title="a file of full weight differences (diff)",
    marks=frozenset({"diff"}),
    others=frozenset(),
    shape=_shape("diff"),
    change=lambda layer: Dense(layer.parts["diff"]),
)
WHOLE = Algorithm(
    name="whole weights",
    title="a file of whole new weights (set_weight)",
    marks=frozenset({"set_weight"}),
    others=frozenset(),
    shape=_shape("set_weight"),
    change=lambda layer: Dense(layer.parts["set_weight"].reshape(layer.base.shape) - layer.base),
    needs_base=True,
)
