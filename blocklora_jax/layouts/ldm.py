"""The two-way table between the PyTorch keys of Diffusers' components and those of original single files (LDM names).

| component | prefix in the single file | keys |
|---|---|---|
| U-Net | `model.diffusion_model.` | `input_blocks.N.0` residual block, `.1` attention, `.0.op` downsampler |
| | | `middle_block.0`, `.1`, `.2` |
| | | `output_blocks.N.0`, `.1`, and the upsampler after them |
| autoencoder | `first_stage_model.` | `encoder.down.I.block.J`, `mid.block_1`, `mid.attn_1` |
| | | `decoder.up.I`, counted from the end that gives the picture |
| | | attention is stored as 1x1 convolutions |
| text encoder of 1.x | `cond_stage_model.transformer.` | the same key |
| text encoder of 2.x | `cond_stage_model.model.` | OpenCLIP's names; query, key and value in one `in_proj` |
| SDXL, first text encoder | `conditioner.embedders.0.transformer.` | as in 1.x |
| SDXL, second text encoder | `conditioner.embedders.1.model.` | OpenCLIP's names; `text_projection` transposed |

The numbers of blocks depend on how many layers they have, so the table is made from the keys of a model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.families.table import FAMILIES

_ITEM = re.compile(r"(?:(?:en|de)coder\.)?(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)")
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_ENDS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_QKV = re.compile(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


class Place(NamedTuple):
    """Where a parameter is in the single file: in `part` (0, 1, 2 for q, k, v) of the tensor `key`; None: all of it."""

    key: str
    part: int | None = None


def ldm_table(family: str, keys: Mapping[str, Collection[str]]) -> dict[tuple[str, str], Place]:
    """{(component, PyTorch key): place in the single file}, one to one.

    Args:
        family: a key of `FAMILIES`.
        keys: all PyTorch keys of each component, as `checkpoints.layout` writes them.

    Raises:
        UserError: a component that the family does not have, or a key that has no place.

    Source: the modules of CompVis latent-diffusion and Stability's generative-models.
    """
    table = {}
    for component, names in keys.items():
        prefix = FAMILIES[family].ldm_prefixes.get(component)
        if prefix is None:
            raise UserError(f"a single file of {family} has no {component}")
        place = _namer(family, component, names)
        for name in names:
            unprefixed = place(name)
            table[component, name] = unprefixed._replace(key=prefix + unprefixed.key)
    return table


def invert_table(table: Mapping[tuple[str, str], Place]) -> dict[str, list[tuple[str, str]]]:
    """{key of the single file: [(component, PyTorch key)]}: one entry, or three for q, k and v in this order."""
    ordered = sorted(table.items(), key=lambda item: item[1].part or 0)
    inverse: dict[str, list[tuple[str, str]]] = {}
    for entry, place in ordered:
        inverse.setdefault(place.key, []).append(entry)
    return inverse


def split_tensor(entries: Sequence[tuple[str, str]], tensor: np.ndarray) -> list[np.ndarray]:
    """The PyTorch tensors that a stored tensor holds, one for each of `entries`, as views."""
    component, key = entries[0]
    if len(entries) > 1:
        return np.split(tensor, len(entries))
    if key == "text_projection.weight":
        return [tensor.T]
    # Some files have a 1x1 convolution here, very old ones a one-dimensional convolution, others the matrix itself.
    return [tensor.reshape(tensor.shape[:2]) if is_vae_attention(component, key) else tensor]


def join_tensors(entries: Sequence[tuple[str, str]], tensors: Sequence[np.ndarray]) -> np.ndarray:
    """The tensor to store for these PyTorch tensors: the inverse of `split_tensor`."""
    component, key = entries[0]
    if len(entries) > 1:
        return np.concatenate(tensors)
    if key == "text_projection.weight":
        return tensors[0].T
    return tensors[0][:, :, None, None] if is_vae_attention(component, key) else tensors[0]


def is_vae_attention(component: str, key: str) -> bool:
    """Whether the tensor is a matrix in Diffusers and a 1x1 convolution in single files."""
    return component == "vae" and ".attentions." in key and key.endswith(".weight") and "group_norm" not in key


def unet_prefixes(keys: Iterable[str]) -> dict[str, str]:
    """{"down_blocks.0.resnets.1": "input_blocks.2.0", …} for every module list of a U-Net with these keys."""
    items = {match.groups() for key in keys if (match := _ITEM.match(key))}
    prefixes, index = dict(_UNET_ENDS), 1
    for block in range(_count(items, "down")):
        for layer in range(_count(items, "down", str(block), "resnets")):
            prefixes[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{index}.0"
            prefixes[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{index}.1"
            index += 1
        if ("down", str(block), "downsamplers", "0") in items:
            prefixes[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{index}.0.op"
            index += 1
    index = 0
    for block in range(_count(items, "up")):
        for layer in range(_count(items, "up", str(block), "resnets")):
            prefixes[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{index}.0"
            prefixes[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{index}.1"
            index += 1
        # The upsampler comes after the residual block and, if there is one, the attention.
        position = 2 if ("up", str(block), "attentions", "0") in items else 1
        prefixes[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{index - 1}.{position}.conv"
    return prefixes


def unet_name(key: str, prefixes: Mapping[str, str]) -> str:
    """The LDM key for a U-Net's PyTorch key or module name. prefixes: from `unet_prefixes`.

    >>> unet_name("conv_out.weight", unet_prefixes([]))
    'out.2.weight'
    """
    parts = key.split(".")
    # "conv_in", "time_embedding.linear_1", "mid_block.resnets.0", "down_blocks.0.resnets.1", "….downsamplers.0.conv"
    for length in (5, 4, 3, 2, 1):
        head = ".".join(parts[:length])
        if head in prefixes:
            tail = parts[length:]
            if "resnets" in parts and tail:
                tail[0] = _RESNET.get(tail[0], tail[0])
            return ".".join([prefixes[head], *tail])
    raise UserError(f"the U-Net's {key!r} has no name in original single files")


def _count(items: set[tuple[str, ...]], *head: str) -> int:
    return len({item[len(head)] for item in items if item[: len(head)] == head})


def _namer(family: str, component: str, keys: Collection[str]):
    if component == "unet":
        prefixes = unet_prefixes(keys)
        return lambda key: Place(unet_name(key, prefixes))
    if component == "vae":
        blocks = _count({match.groups() for key in keys if (match := _ITEM.match(key))}, "up")
        return lambda key: Place(_vae_name(key, blocks))
    return _open_clip_place if component in FAMILIES[family].open_clip else Place


def _vae_name(key: str, up_blocks: int) -> str:
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    last = up_blocks - 1
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", key):
        return f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _open_clip_place(key: str) -> Place:
    if key in _OPEN_CLIP_ENDS:
        return Place(_OPEN_CLIP_ENDS[key])
    if match := _QKV.fullmatch(key):
        return Place(f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}", "qkv".index(match[2]))
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
    if match is None or match[2] not in _OPEN_CLIP_LAYER:
        raise UserError(f"the text encoder's {key!r} has no name in OpenCLIP")
    return Place(f"transformer.resblocks.{match[1]}.{_OPEN_CLIP_LAYER[match[2]]}.{match[3]}")
