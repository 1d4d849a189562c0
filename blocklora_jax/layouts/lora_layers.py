"""The layers of Stable Diffusion 1.x, 2.x and XL that a LoRA can adapt, under the names of other programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from blocklora_jax.layouts.families.table import DEFAULT_FAMILY, FAMILIES
from blocklora_jax.layouts.ldm import unet_name, unet_prefixes
from blocklora_jax.layouts.torch_names import torch_key

# The largest numbers of any of these models: the layers of all models are listed, not those of one.
_BLOCKS, _DEPTH, _TEXT_LAYERS = 4, 10, 32
_RESNETS = {"down_blocks": 2, "mid_block": 2, "up_blocks": 3}
_RESNET = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
_TRANSFORMER = (
    *(f"{attention}/{name}" for attention in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out_0")),
    "ff/net_0/proj",
    "ff/net_2",
)
_TEXT = (*(f"self_attn/{name}_proj" for name in ("q", "k", "v", "out")), "mlp/fc1", "mlp/fc2")
_CONVOLUTION_3X3 = re.compile(r"(^|/)conv(1|2|_in|_out)?$")
_PROJECTION = re.compile(r"(^|/)proj_(in|out)$")


def kernel_size(layer: str, base_family: str = DEFAULT_FAMILY) -> int | None:
    """Width of the convolution at a U-Net layer's path: 1 or 3; None where it is linear.

    `proj_in` and `proj_out` of attention are 1x1 convolutions in Stable Diffusion 1.x, and linear later.

    >>> kernel_size("down_blocks_0/resnets_0/conv1"), kernel_size("mid_block/attentions_0/proj_in", "sdxl")
    (3, None)
    """
    if _CONVOLUTION_3X3.search(layer):
        return 3
    is_projection = _PROJECTION.search(layer) and FAMILIES[base_family].has_convolution_projections
    return 1 if is_projection or layer.endswith("conv_shortcut") else None


def module_name(component: str, layer: str) -> str:
    """PyTorch's name of a layer: "mid_block.attentions.0.proj_in"."""
    return torch_key(component, f"{layer}/kernel").removesuffix(".weight")


def ldm_name(layer: str) -> str:
    """The name of a U-Net's layer in SDXL's own code: "middle_block.1.proj_in"."""
    return unet_name(module_name("unet", layer), _ldm_prefixes(True))


@lru_cache(maxsize=4)
def known_layers(component: str) -> frozenset[str]:
    """Paths of all layers that "unet", "text_encoder" or "text_encoder_2" can have."""
    if component == "unet":
        return frozenset(_unet_layers())
    paths = [f"text_model/encoder/layers/{i}/{name}" for i in range(_TEXT_LAYERS) for name in _TEXT]
    return frozenset([*paths, "text_projection"] if component == "text_encoder_2" else paths)


def ldm_names(layer: str) -> set[str]:
    """All names that a layer may have in LDM's code: an upsampler's name depends on whether attention precedes it."""
    name = module_name("unet", layer)
    return {unet_name(name, _ldm_prefixes(attention)) for attention in (True, False)}


def _unet_layers() -> Iterator[str]:
    yield from ("conv_in", "conv_out")
    yield from (f"{part}/linear_{i}" for part in ("time_embedding", "add_embedding") for i in (1, 2))
    for block in ("mid_block", *(f"{way}_blocks_{i}" for way in ("down", "up") for i in range(_BLOCKS))):
        resnets = _RESNETS[re.sub(r"_\d+$", "", block)]
        yield from (f"{block}/resnets_{i}/{name}" for i in range(resnets) for name in _RESNET)
        for i in range(1 if block == "mid_block" else resnets):
            attention = f"{block}/attentions_{i}"
            yield from (f"{attention}/{name}" for name in ("proj_in", "proj_out"))
            yield from (f"{attention}/transformer_blocks_{j}/{name}" for j in range(_DEPTH) for name in _TRANSFORMER)
    for i in range(_BLOCKS):
        yield from (f"down_blocks_{i}/downsamplers_0/conv", f"up_blocks_{i}/upsamplers_0/conv")


@lru_cache(maxsize=2)
def _ldm_prefixes(attention: bool) -> dict[str, str]:
    """`unet_prefixes` for two layers a block, as in all published models.

    attention: whether every up block has attention.
    """
    keys = []
    for block in range(_BLOCKS):
        for way in ("down_blocks", "up_blocks"):
            keys += [f"{way}.{block}.resnets.{layer}.conv1.weight" for layer in range(_RESNETS[way])]
        keys += [f"down_blocks.{block}.downsamplers.0.conv.weight"]
        keys += [f"up_blocks.{block}.attentions.0.proj_in.weight"] if attention else []
    return unet_prefixes(keys)
