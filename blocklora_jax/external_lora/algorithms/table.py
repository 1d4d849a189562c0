"""All kinds of adapters that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocklora_jax.external_lora.algorithms.boft import BOFT, INPUT_BOFT
from blocklora_jax.external_lora.algorithms.full import FULL, WHOLE
from blocklora_jax.external_lora.algorithms.glora import GLORA
from blocklora_jax.external_lora.algorithms.ia3 import IA3, PEFT_IA3
from blocklora_jax.external_lora.algorithms.layer import Algorithm
from blocklora_jax.external_lora.algorithms.loha import LOHA
from blocklora_jax.external_lora.algorithms.lokr import LOKR
from blocklora_jax.external_lora.algorithms.lora import LORA
from blocklora_jax.external_lora.algorithms.oft import INPUT_OFT, OFT

ALGORITHMS: tuple[Algorithm, ...] = (
    LORA, LOHA, LOKR, GLORA, OFT, BOFT, INPUT_OFT, INPUT_BOFT, IA3, PEFT_IA3, FULL, WHOLE
)  # fmt: skip


def algorithm_of(shapes: Mapping[str, Any]) -> Algorithm | None:
    """The kind of a layer with these parts; None for a layer of which only vectors are changed.

    shapes: anything with `len`, by part: an array or a shape's axes.

    OFT and BOFT of LyCORIS have the same names; BOFT has one axis more.
    """
    found = [kind for kind in ALGORITHMS if kind.marks & shapes.keys()]
    if OFT in found and _axes(shapes["oft_blocks"]) == 4:
        found.remove(OFT)
    return found[0] if found else None


def _axes(part: Any) -> int:
    return part.ndim if hasattr(part, "ndim") else len(part)
