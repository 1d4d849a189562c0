"""LoRA files of other programs, in the layouts of diffusers/PEFT and of kohya, as ordinary adapters without blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.adapters.lora import Adapter, AdapterInfo, LoRAPair, LoRATree
from blocklora_jax.errors import UserError
from blocklora_jax.formats.kohya import any_kohya_table
from blocklora_jax.formats.layers import kernel_size
from blocklora_jax.formats.lora_kinds import SUPPORTED, unsupported_kind
from blocklora_jax.formats.lowrank import flax_factors
from blocklora_jax.formats.peft import peft_layer
from blocklora_jax.formats.peft_config import PeftConfigs
from blocklora_jax.io.tensor_file import open_tensors

# What the end of a key says of its tensor. Old diffusers wrote `to_q_lora.down` and `lora_linear_layer.down`.
_ROLES = (
    (re.compile(r"(.+)\.lora_(?:down|A|A\.\w+)\.weight"), "down"),
    (re.compile(r"(.+)\.lora_(?:up|B|B\.\w+)\.weight"), "up"),
    (re.compile(r"(.+)\.lora_mid\.weight"), "mid"),
    (re.compile(r"(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight"), "down"),
    (re.compile(r"(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight"), "up"),
    (re.compile(r"(.+)\.alpha"), "alpha"),
)
Layer = tuple[str, str]


def read_foreign_lora(path: str | Path, verify: bool = True) -> Adapter:
    """The adapter in a LoRA file of another program; scales are folded in, so that its own is 1.

    Its layers may differ in rank. Without an alpha the scale is 1, as for every program that writes or reads such files.
    LoCon with a core (`lora_mid`) becomes an ordinary pair, exactly.

    Raises:
        UserError: another kind of file, saying which; layers that no Stable Diffusion 1.x, 2.x or XL has; tensors that
            are missing, misshapen or not finite.

    Source: kohya sd-scripts `networks/lora.py`; diffusers 0.42 `loaders/lora_pipeline.py`; peft `LoraConfig`.
    """
    tensors, metadata = _read(path, verify)
    layers, origin = _group(path, tensors)
    alphas = PeftConfigs.read(path, metadata, tensors)
    family = guess_family(layers)
    lora: LoRATree = {}
    problems = []
    for (component, layer), parts in sorted(layers.items()):
        problem = _problem(component, layer, parts)
        if problem:
            problems.append(f"{component}/{layer} {problem}")
        else:
            lora.setdefault(component, {})[layer] = _pair(component, layer, parts, alphas)
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(f"{path} is no complete LoRA: {'; '.join(problems[:4])}{more}. Download it again")
    return Adapter(lora=lora, tokens={}, info=_info(path, lora, metadata, origin, family))


def guess_family(layers: Mapping[Layer, Mapping[str, np.ndarray]]) -> str:
    """Which of "sd1", "sd2" and "sdxl" these layers are of; "" where they do not say."""
    downs = {layer: parts["down"] for (_, layer), parts in layers.items() if "down" in parts and parts["down"].ndim > 1}
    widths = {down.shape[1] for layer, down in downs.items() if re.search(r"attn2/to_[kv]$", layer)}
    projections = {down.ndim for layer, down in downs.items() if re.search(r"attentions_\d+/proj_(in|out)$", layer)}
    deep = any(re.search(r"transformer_blocks_[1-9]/", layer) for _, layer in layers)
    if deep or 2048 in widths or any(component == "text_encoder_2" for component, _ in layers):
        return "sdxl"
    if 1024 in widths:
        return "sd2"
    # Linear projections are of either of the later families.
    return "sd1" if 4 in projections or 768 in widths else ""


def _read(path: str | Path, verify: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with open_tensors(path, "LoRA file", verify) as file:
        # Its kind is told first: other kinds have other types.
        if kind := unsupported_kind(file.keys):
            raise UserError(f"{path} is {kind}; {SUPPORTED} are read")
        return file.read_all(), file.metadata


def _group(path: str | Path, tensors: Mapping[str, np.ndarray]) -> tuple[dict[Layer, dict[str, np.ndarray]], str]:
    """Tensors by layer and role, and the layout's name."""
    layers: dict[Layer, dict[str, np.ndarray]] = {}
    unknown, doubled, kohya = [], [], 0
    for key, tensor in tensors.items():
        head, role = _split(key)
        layer = any_kohya_table().get(head) or peft_layer(head)
        if not role or layer is None:
            unknown.append(key)
            continue
        kohya += head in any_kohya_table()
        parts = layers.setdefault(layer, {})
        doubled += [key] if role in parts else []
        parts[role] = tensor
    if not layers:
        raise UserError(
            f"{path} is a safetensors file but not a blocklora adapter (no 'blocklora' header), and none of its tensors"
            f" ({', '.join(sorted(unknown)[:3]) or 'none'}) is a LoRA's; {SUPPORTED} are read"
        )
    if unknown:
        raise UserError(
            f"{path} has {len(unknown)} tensors of no known layer or kind ({', '.join(sorted(unknown)[:3])}); {SUPPORTED} are read"
        )
    if doubled:
        raise UserError(f"{path} has layers under two names: {', '.join(doubled[:3])}; which of them holds is unclear")
    return layers, "kohya" if kohya else "diffusers"


def _split(key: str) -> tuple[str, str]:
    for pattern, role in _ROLES:
        if match := pattern.fullmatch(key):
            return match[1], role
    return key, ""


def _problem(component: str, layer: str, parts: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with a layer's tensors."""
    if "down" not in parts or "up" not in parts:
        there = ", ".join(sorted(parts))
        return f"has only {there}"
    down, up, mid = parts["down"], parts["up"], parts.get("mid")
    shapes = f"is misshapen: down {list(down.shape)}, up {list(up.shape)}" + (
        f", mid {list(mid.shape)}" if mid is not None else ""
    )
    if {down.ndim, up.ndim} - {2, 4}:
        return shapes
    if not all(np.isfinite(part.astype(np.float32)).all() for part in parts.values()):
        return "has values that are not finite"
    if "alpha" in parts and parts["alpha"].size != 1:
        return f"has an alpha of shape {list(parts['alpha'].shape)}"
    size = kernel_size(layer) if component == "unet" else None
    window = (mid if mid is not None else down).shape[2:]
    rank = (down.shape[0], down.shape[0])
    fits = up.shape[1] == down.shape[0] and up.shape[2:] in ((), (1, 1))
    fits &= mid is None or (mid.ndim == 4 and mid.shape[:2] == rank and down.shape[2:] in ((), (1, 1)))
    fits &= window == (3, 3) if size == 3 else window in ((), (1, 1))
    return None if fits else shapes


def _pair(component: str, layer: str, parts: Mapping[str, np.ndarray], alphas: PeftConfigs) -> LoRAPair:
    down, up = (np.asarray(parts[role], np.float32) for role in ("down", "up"))
    rank = down.shape[0]
    if "mid" in parts:
        # up . mid . down, where mid's second axis is what down makes, is an ordinary pair of the same rank.
        mid = np.asarray(parts["mid"], np.float32)
        down = np.einsum("pqhw,qn->pnhw", mid, down.reshape(rank, -1))
    if "alpha" in parts:
        scale = float(parts["alpha"].astype(np.float32).reshape(())) / rank
    else:
        scale = alphas.scale(component, layer, rank)
    a, b = flax_factors(down, up)
    return LoRAPair(np.ascontiguousarray(a) * np.float32(scale), np.ascontiguousarray(b))


def _info(path: str | Path, lora: LoRATree, metadata: Mapping[str, str], origin: str, family: str) -> AdapterInfo:
    ours = _our_header(metadata)
    rank = max(pair.lora_A.shape[1] for layers in lora.values() for pair in layers.values())
    return AdapterInfo(
        name=Path(path).stem,
        class_noun="",
        trigger=ours.get("trigger") or metadata.get("modelspec.trigger_phrase", ""),
        rank=rank,
        alpha=float(rank),
        base_name=ours.get("base_name")
        or metadata.get("ss_sd_model_name")
        or metadata.get("ss_base_model_version", ""),
        base_digest=ours.get("base_digest", ""),
        base_family=ours.get("base_family") or family,
        origin=origin,
    )


def _our_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What `merge.export` wrote about the file, if it did."""
    try:
        header = json.loads(metadata.get("blocklora", "{}"))
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}
