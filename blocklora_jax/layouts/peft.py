"""LoRA safetensors in the layout of PEFT, which diffusers' `load_lora_weights` reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import numpy as np

from blocklora_jax.checks.finite import narrow
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.families.table import DEFAULT_FAMILY
from blocklora_jax.layouts.lora_layers import kernel_size, known_layers, module_name
from blocklora_jax.layouts.low_rank import LowRank, one_rank, torch_factors
from blocklora_jax.layouts.torch_names import flax_path

_COMPONENT = re.compile(r"(unet|text_encoder_2|text_encoder)\.(.+)")
_BARE = "base_model.model."
# Beginnings of U-Net layers outside of down and up blocks.
_UNET_ROOTS = ("mid_block.", "conv_", "time_embedding.", "add_embedding.")
# The names that diffusers gave to the text encoder's layers before it used PEFT.
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def peft_layer(head: str, known: Callable[[str], Collection[str]] = known_layers) -> tuple[str, str] | None:
    """(component, Flax layer path) of a tensor's name without its ending; None if there is no such layer.

    known: gives the paths of a component's layers.

    Also reads the names that PEFT writes for a single model (`base_model.model.down_blocks…`), and the names that
    diffusers used before PEFT.

    >>> peft_layer("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out")
    ('unet', 'mid_block/attentions_0/transformer_blocks_0/attn1/to_out_0')
    """
    if head.startswith(_BARE):
        name = head.removeprefix(_BARE)
        component = "unet" if "_blocks." in name or name.startswith(_UNET_ROOTS) else "text_encoder"
    elif match := _COMPONENT.fullmatch(head):
        component, name = match.groups()
    else:
        return None
    *modules, last = name.replace(".processor.", ".").split(".")
    if component == "unet":
        last = "to_out.0" if last == "to_out" else last
    else:
        last = _OLD_TEXT.get(last, last)
    try:
        layer = flax_path(component, ".".join([*modules, last, "weight"]), 2).rsplit("/", 1)[0]
    except UserError:
        return None
    return (component, layer) if layer in known(component) else None


def peft_tensors(lowrank: LowRank, dtype: np.dtype, base_family: str = DEFAULT_FAMILY) -> dict[str, np.ndarray]:
    """`<component>.<layer>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r], contiguous, for PyTorch.

    Every layer is padded with zeros to one rank r. There are no alphas: diffusers then uses r as alpha, which is right
    because the scales are already multiplied in. If no attention layer of a text encoder is adapted, one of zeros is
    added, because diffusers reads the rank there. base_family: see `AdapterInfo`.

    Source: diffusers 0.42 `StableDiffusionLoraLoaderMixin`; peft `LoraConfig`.
    """
    tensors = {}
    padded, _ = one_rank(with_attention(lowrank))
    for component, layers in padded.items():
        for layer, pair in layers.items():
            name = f"{component}.{module_name(component, layer)}"
            size = kernel_size(layer, base_family) if component == "unet" else None
            down, up = torch_factors(*pair, size)
            tensors[f"{name}.lora_A.weight"] = narrow(f"{name}.lora_A.weight", down, dtype)
            tensors[f"{name}.lora_B.weight"] = narrow(f"{name}.lora_B.weight", up, dtype)
    return tensors


def with_attention(lowrank: LowRank) -> LowRank:
    """`lowrank`, with a layer of zeros added to each text encoder in which no attention layer is adapted."""
    return {c: layers if c == "unet" else _with_attention(layers) for c, layers in lowrank.items()}


def _with_attention(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    mlp = next((layer for layer in layers if "/mlp/fc" in layer), None)
    if mlp is None or any("/self_attn/" in layer for layer in layers):
        return layers
    a, b = layers[mlp]
    # fc1 maps the text width to the inner width, and fc2 maps it back.
    width = min(a.shape[0], b.shape[1])
    zeros = np.zeros((width, 1), np.float32), np.zeros((1, width), np.float32)
    return {re.sub(r"mlp/fc[12]$", "self_attn/q_proj", mlp): zeros, **layers}
