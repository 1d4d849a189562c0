"""The norms of Stable Diffusion 1.x, 2.x and XL, whose scales and biases some adapters change."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from blocklora_jax.layouts.components import ADAPTED
from blocklora_jax.layouts.kohya import kohya_table
from blocklora_jax.layouts.lora_layers import known_layers

# A layer that shows where the norms are, and their names there.
_BESIDE = {
    "/conv1": ("norm1", "norm2"),
    "/proj_in": ("norm",),
    "/attn1/to_q": ("norm1", "norm2", "norm3"),
    "/mlp/fc1": ("layer_norm1", "layer_norm2"),
}
_LAST = {
    "unet": "conv_norm_out",
    "text_encoder": "text_model/final_layer_norm",
    "text_encoder_2": "text_model/final_layer_norm",
}


@lru_cache(maxsize=4)
def known_norms(component: str) -> frozenset[str]:
    """Paths of all norms that "unet", "text_encoder" or "text_encoder_2" can have.

    >>> "text_model/encoder/layers/0/layer_norm1" in known_norms("text_encoder")
    True
    """
    beside = [
        f"{layer.removesuffix(end)}/{name}"
        for layer in known_layers(component)
        for end, names in _BESIDE.items()
        if layer.endswith(end)
        for name in names
    ]
    return frozenset([*beside, _LAST[component]])


@lru_cache(maxsize=1)
def any_norm_table() -> Mapping[str, tuple[str, str]]:
    """{name in kohya's layout: (component, path)} of all norms of Stable Diffusion 1.x, 2.x and XL."""
    return kohya_table({component: known_norms(component) for component in ADAPTED})
