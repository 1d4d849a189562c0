"""The two-way table between PyTorch keys and Flax paths.

| PyTorch                                  | Flax                                    | axes                  |
|------------------------------------------|-----------------------------------------|-----------------------|
| `down_blocks.0.resnets.1.…`              | `down_blocks_0/resnets_1/…`             |                       |
| `….to_out.0.…`, `….net.0.…`              | `…/to_out_0/…`, `…/net_0/…`             |                       |
| `….layers.3.…`                           | `…/layers/3/…`                          |                       |
| VAE `to_q`, `to_k`, `to_v`, `to_out.0`   | `query`, `key`, `value`, `proj_attn`    |                       |
| linear `.weight` [out, in]               | `/kernel` [in, out]                     | transposed            |
| conv `.weight` [out, in, h, w]           | `/kernel` [h, w, in, out]               | (2, 3, 1, 0)          |
| norm `.weight` [c]                       | `/scale` [c]                            |                       |
| `…_embedding.weight` [n, d]              | `…_embedding/embedding` [n, d]          |                       |
| `.bias`                                  | `/bias`                                 |                       |

Two more spellings are read but never written: the VAE's old names `query`, `key`, `value`, `proj_attn`, and
text-encoder keys without `text_model.`, as transformers 5 saves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.io.transposed import contiguous
from blocklora_jax.layouts.components import ADAPTED

COMPONENTS = (*ADAPTED, "vae", "image_encoder")

# Module lists. PyTorch writes the number of an item as a separate part of the key; Flax has it in the name.
_LISTS = frozenset(
    "down_blocks up_blocks resnets attentions transformer_blocks downsamplers upsamplers to_out net".split()
)
_NUMBERED = re.compile(r"(.+)_(\d+)")
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out_0"}
_VAE_ATTENTION_FLAX = {new: old for old, new in _VAE_ATTENTION.items()}
_TEXT_ROOTS = frozenset({"embeddings", "encoder", "final_layer_norm"})
# Buffers, not weights: 0, 1, 2, …, as many as the position table has rows.
_BUFFERS = frozenset({"text_model/embeddings/position_ids", "vision_model/embeddings/position_ids"})
_TABLES = frozenset({"token_embedding", "position_embedding"})
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "class_embedding": "class_embedding",
}


def torch_key(component: str, path: str) -> str:
    """The PyTorch key of a Flax path.

    >>> torch_key("unet", "mid_block/attentions_0/transformer_blocks_0/attn2/to_out_0/kernel")
    'mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.weight'

    Raises: UserError if the path does not end in kernel, scale, embedding or bias, or the component is unknown.
    """
    _check_component(component)
    *modules, leaf = path.split("/")
    if leaf not in _LEAVES:
        raise UserError(f"{component}/{path}: a parameter path ends in one of {', '.join(_LEAVES)}")
    names = []
    for name in modules:
        name = _VAE_ATTENTION.get(name, name) if component == "vae" else name
        numbered = _NUMBERED.fullmatch(name)
        names += numbered.groups() if numbered and numbered[1] in _LISTS else [name]
    return ".".join([*names, _LEAVES[leaf]])


def flax_path(component: str, key: str, ndim: int) -> str:
    """The Flax path of a PyTorch key. ndim: the tensor's number of axes, which tells a kernel from a norm's scale.

    >>> flax_path("text_encoder", "encoder.layers.0.mlp.fc1.weight", 2)
    'text_model/encoder/layers/0/mlp/fc1/kernel'

    Raises: UserError if the key does not end in `.weight` or `.bias`, or the component is unknown.
    """
    _check_component(component)
    *modules, leaf = _module_names(component, key)
    if leaf == "weight" and modules:
        is_table = modules[-1] in _TABLES and ndim == 2
        leaf = "embedding" if is_table else "scale" if ndim == 1 else "kernel"
    elif leaf not in ("bias", "class_embedding", "position_ids"):
        raise UserError(f"{component}: the key {key!r} does not end in .weight or .bias: not a diffusers file?")
    return "/".join([*modules, leaf])


def to_flax(component: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested Flax parameters of a PyTorch state dict; kernels are transposed views, not copies.

    Raises: UserError naming a key that is not a parameter of a diffusers model, or that occurs in two spellings.
    """
    flat: dict[str, tuple[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        path = flax_path(component, key, np.ndim(tensor))
        if path in flat:
            raise UserError(f"{component}: {key!r} and {flat[path][0]!r} are the same parameter, {path}")
        flat[path] = (key, flip_axes(path, tensor, to_torch=False))
    nested: dict[str, Any] = {}
    for path, (_, array) in flat.items():
        if path not in _BUFFERS:
            *modules, leaf = path.split("/")
            node = nested
            for name in modules:
                node = node.setdefault(name, {})
            node[leaf] = array
    return nested


def to_torch(component: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of nested Flax parameters: contiguous numpy arrays of unchanged dtype.

    Contiguous, because `safetensors.numpy.save_file` writes wrong data for a transposed view, without a warning.
    """
    return {key: contiguous(view) for key, view in torch_views(component, params).items()}


def torch_views(component: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Like `to_torch`, but kernels are transposed views, so that a model is not in memory twice."""
    return {
        torch_key(component, path): flip_axes(path, np.asarray(leaf), to_torch=True)
        for path, leaf in sorted(_flatten(params))
    }


def _check_component(component: str) -> None:
    if component not in COMPONENTS:
        raise UserError(f"unknown component {component!r}; there are {', '.join(COMPONENTS)}")


def _module_names(component: str, key: str) -> list[str]:
    names: list[str] = []
    for part in key.split("."):
        if part.isdigit() and names and names[-1] in _LISTS:
            names[-1] += f"_{part}"
        else:
            names.append(part)
    if component == "vae":
        return [_VAE_ATTENTION_FLAX.get(name, name) for name in names]
    if component.startswith("text_encoder") and names[0] in _TEXT_ROOTS:
        return ["text_model", *names]
    return names


def flip_axes(path: str, array: np.ndarray, *, to_torch: bool) -> np.ndarray:
    """A view of the parameter at a Flax path, with its axes in PyTorch's order, or in Flax's."""
    if not path.endswith("/kernel"):
        return array
    if array.ndim == 4:
        return array.transpose((3, 2, 0, 1) if to_torch else (2, 3, 1, 0))
    return array.T


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, node in tree.items():
        leaves += _flatten(node, f"{prefix}{name}/") if isinstance(node, Mapping) else [(f"{prefix}{name}", node)]
    return leaves
