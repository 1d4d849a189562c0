"""LoRA safetensors in the layout of PEFT, which diffusers' `load_lora_weights` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from blocklora_jax.checkpoints.layout import torch_key

# {"unet": {layer path: (A [n, r], B [r, m])}, "text_encoder": {…}}: the change of a Flax kernel [n, m] is A @ B.
LowRank = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]

# In Stable Diffusion 1.x these are 1x1 convolutions, later linear, as everything else that is adapted.
_CONVOLUTION = re.compile(r"attentions_\d+/proj_(in|out)$")


def peft_tensors(lowrank: LowRank, dtype: np.dtype, base_family: str = "sd1") -> dict[str, np.ndarray]:
    """`<component>.<layer>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r], contiguous, for PyTorch.

    Every layer is padded with zeros to one rank r, and there are no alphas: diffusers takes r for alpha, which is right
    because scales are folded in already. A text encoder in which no attention layer is adapted gets one of zeros,
    because diffusers reads its rank there. base_family: see `AdapterInfo`.

    Source: diffusers 0.42 `StableDiffusionLoraLoaderMixin`; peft `LoraConfig`.
    """
    rank = max((a.shape[1] for layers in lowrank.values() for a, _ in layers.values()), default=0)
    tensors = {}
    for component, layers in lowrank.items():
        for layer, (a, b) in (layers if component == "unet" else _with_attention(layers)).items():
            key = f"{component}.{torch_key(component, f'{layer}/kernel').removesuffix('.weight')}"
            down, up = _pad(a.T, rank, axis=0), _pad(b.T, rank, axis=1)
            if component == "unet" and base_family == "sd1" and _CONVOLUTION.search(layer):
                down, up = down[:, :, None, None], up[:, :, None, None]
            # safetensors writes wrong data for arrays that are not contiguous.
            tensors[f"{key}.lora_A.weight"] = np.ascontiguousarray(down, dtype)
            tensors[f"{key}.lora_B.weight"] = np.ascontiguousarray(up, dtype)
    return tensors


def _pad(x: np.ndarray, rank: int, axis: int) -> np.ndarray:
    widths = [(0, rank - size if i == axis else 0) for i, size in enumerate(x.shape)]
    return np.pad(x, widths)


def _with_attention(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    if not layers or any("/self_attn/" in layer for layer in layers):
        return layers
    layer, (a, b) = next(iter(layers.items()))
    # fc1 maps the text width to the inner width, fc2 back.
    width = min(a.shape[0], b.shape[1])
    silent = np.zeros((width, 1), np.float32), np.zeros((1, width), np.float32)
    return {layer.replace("mlp/fc1", "self_attn/q_proj").replace("mlp/fc2", "self_attn/q_proj"): silent, **layers}
