"""The number by which a layer's change is multiplied: alpha over rank, and LyCORIS' `scalar`."""

from __future__ import annotations

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer
from blocklora_jax.external_lora.peft_config import PeftConfigs

# Trainers set alpha to the rank or less. Some published LoRAs have a scale of about a hundred.
_LARGEST = 1e4


def scale_of(kind: Algorithm, layer: Layer, configs: PeftConfigs) -> float:
    """The scale. Without an alpha it is 1, as in all programs that write or read such files."""
    rank, scalar = kind.rank(layer), layer.number("scalar", 1.0)
    if "alpha" not in layer.parts:
        return scalar * configs.scale(layer.component, layer.path, rank)
    # Without a rank, alpha is not a scale: a LoKr of two whole sides is not scaled, and in OFT alpha is a bound.
    return scalar * (layer.number("alpha", 1.0) / rank if rank else 1.0)


def scale_problem(scale: float, kind: Algorithm, layer: Layer) -> str | None:
    """What is wrong with a scale."""
    marks = [layer.parts[name] for name in kind.marks if name in layer.parts]
    if scale == 0 and all(mark.any() for mark in marks):
        return "has alpha 0, which means no change in some programs and alpha equal to the rank in others"
    return f"is scaled by {scale:g} (alpha over rank)" if abs(scale) > _LARGEST else None
