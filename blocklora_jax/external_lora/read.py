"""Reads LoRA files of other programs, in the layouts of diffusers/PEFT and kohya, as adapters without blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.kinds import SUPPORTED, unsupported_kind
from blocklora_jax.external_lora.names import lora_name
from blocklora_jax.external_lora.peft_config import PeftConfigs
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.printing import plain_text
from blocklora_jax.io.tensor_file import open_tensors
from blocklora_jax.layouts.dialects import find_layer
from blocklora_jax.layouts.families.recognise import Layer, Shape, possible_families
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.layouts.lora_layers import kernel_size
from blocklora_jax.layouts.low_rank import LoRAPair, LoRATree, flax_factors

# The role of a tensor, from the end of its key. Old diffusers wrote `to_q_lora.down` and `lora_linear_layer.down`.
_ROLES = (
    (re.compile(r"(.+)\.lora_(?:down|A|A\.\w+)\.weight"), "down"),
    (re.compile(r"(.+)\.lora_(?:up|B|B\.\w+)\.weight"), "up"),
    (re.compile(r"(.+)\.lora_mid\.weight"), "mid"),
    (re.compile(r"(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight"), "down"),
    (re.compile(r"(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight"), "up"),
    (re.compile(r"(.+)\.alpha"), "alpha"),
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Trainers set alpha to the rank or less. Some published LoRAs have a scale of about a hundred.
_LARGEST_SCALE = 1e4


class ExternalLoRA(NamedTuple):
    """A LoRA of another program, with scales multiplied into its pairs. The other fields are as in `AdapterInfo`."""

    lora: LoRATree
    name: str
    trigger: str
    base_name: str
    base_digest: str
    base_family: str
    origin: str


def read_external_lora(path: str | Path, verify: bool = True) -> ExternalLoRA:
    """The LoRA in a file of another program. Scales are multiplied into its pairs.

    Its layers may differ in rank. Without an alpha the scale is 1, as in all programs that write or read such files.
    LoCon with a core (`lora_mid`) becomes an ordinary pair, exactly.

    Raises:
        UserError: the file is of another kind (named in the message), has layers that no Stable Diffusion 1.x, 2.x or
            XL has, or has tensors that are missing, misshapen or not finite.

    Source: kohya sd-scripts `networks/lora.py`; diffusers 0.42 `loaders/lora_pipeline.py`; peft `LoraConfig`.
    """
    tensors, metadata = _read(path, verify)
    layers, names, origin = _group(path, tensors)
    alphas = PeftConfigs.read(path, metadata, tensors)
    lora: LoRATree = {}
    problems = []
    for (component, layer), parts in sorted(layers.items()):
        problem = _problem(component, layer, parts) or _number_problem(component, layer, parts, alphas)
        if problem:
            problems.append(f"{component}/{layer} {problem}")
        else:
            lora.setdefault(component, {})[layer] = _pair(component, layer, parts, alphas)
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"{path} is not a usable LoRA: {'; '.join(problems[:4])}{more}. Download it again, or ask its author"
        )
    family = _family(layers, names, metadata)
    return _described(path, lora, metadata, origin, family)


def _read(path: str | Path, verify: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with open_tensors(path, "LoRA file", verify) as file:
        # The kind is checked first, because other kinds of files have tensors of other types.
        if kind := unsupported_kind(file.keys):
            raise UserError(f"{path} is {kind}; {SUPPORTED} are read")
        # kohya's trainer writes an alpha as an integer if it was given as one.
        return dict(file.tensors(whole=lambda key: key.endswith(".alpha"))), file.metadata


def _group(
    path: str | Path, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[Layer, dict[str, np.ndarray]], set[str], str]:
    """Tensors by layer and role, the layers' names in the file, and the layout's name."""
    layers: dict[Layer, dict[str, np.ndarray]] = {}
    unknown, duplicates, names = [], [], set()
    for key, tensor in tensors.items():
        head, role = _split(key)
        layer = find_layer(head)
        if not role or layer is None:
            unknown.append(key)
            continue
        names.add(head)
        parts = layers.setdefault(layer, {})
        duplicates += [key] if role in parts else []
        parts[role] = tensor
    if not layers:
        raise UserError(
            f"{path} is a safetensors file but not a blocklora adapter (no 'blocklora' header), and none of its tensors"
            f" ({', '.join(sorted(unknown)[:3]) or 'none'}) belongs to a LoRA that can be read; {SUPPORTED} are read"
        )
    if unknown:
        raise UserError(
            f"{path} has {len(unknown)} tensors of no known layer or kind ({', '.join(sorted(unknown)[:3])});"
            f" {SUPPORTED} are read"
        )
    if duplicates:
        raise UserError(f"{path} has layers under two names: {', '.join(duplicates[:3])}; it is unclear which is right")
    return layers, names, "kohya" if any_kohya_table().keys() & names else "diffusers"


def _family(layers: Mapping[Layer, Mapping[str, np.ndarray]], names: set[str], metadata: Mapping[str, str]) -> str:
    """The family of models that these layers are for; "" if several are possible."""
    shapes = {
        layer: Shape(parts["down"].shape[1], parts["up"].shape[0], parts["down"].ndim)
        for layer, parts in layers.items()
    }
    possible = possible_families(shapes, names, metadata)
    return possible.pop() if len(possible) == 1 else ""


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
    if "alpha" in parts and parts["alpha"].size != 1:
        return f"has an alpha of shape {list(parts['alpha'].shape)}"
    if down.shape[0] == 0 or up.size == 0 or down.size == 0:
        return f"has nothing in it: down {list(down.shape)}, up {list(up.shape)}"
    size = kernel_size(layer) if component == "unet" else None
    window = (mid if mid is not None else down).shape[2:]
    rank = (down.shape[0], down.shape[0])
    fits = up.shape[1] == down.shape[0] and up.shape[2:] in ((), (1, 1))
    fits &= mid is None or (mid.ndim == 4 and mid.shape[:2] == rank and down.shape[2:] in ((), (1, 1)))
    fits &= window == (3, 3) if size == 3 else window in ((), (1, 1))
    return None if fits else shapes


def _number_problem(component: str, layer: str, parts: Mapping[str, np.ndarray], alphas: PeftConfigs) -> str | None:
    """What is wrong with the numbers of a layer whose shapes are right."""
    with np.errstate(over="ignore"):
        small = {role: part.astype(np.float32) for role, part in parts.items()}
    if not all(np.isfinite(part).all() for part in small.values()):
        return "has values that are not finite"
    scale = _scale(component, layer, parts, alphas)
    if scale == 0 and small["down"].any() and small["up"].any():
        return "has alpha 0, which means no change in some programs and alpha equal to the rank in others"
    if abs(scale) > _LARGEST_SCALE:
        return f"is scaled by {scale:g} (alpha over rank)"
    with np.errstate(over="ignore"):
        return None if np.isfinite(small["down"] * np.float32(scale)).all() else "has values that are too large"


def _scale(component: str, layer: str, parts: Mapping[str, np.ndarray], alphas: PeftConfigs) -> float:
    rank = parts["down"].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"].astype(np.float32).reshape(())) / rank
    return alphas.scale(component, layer, rank)


def _pair(component: str, layer: str, parts: Mapping[str, np.ndarray], alphas: PeftConfigs) -> LoRAPair:
    down, up = (np.asarray(parts[role], np.float32) for role in ("down", "up"))
    rank = down.shape[0]
    if "mid" in parts:
        # up . mid . down is an ordinary pair of the same rank. mid's second axis has the outputs of down.
        mid = np.asarray(parts["mid"], np.float32)
        down = np.einsum("pqhw,qn->pnhw", mid, down.reshape(rank, -1))
    scale = _scale(component, layer, parts, alphas)
    a, b = flax_factors(down, up)
    return LoRAPair(np.ascontiguousarray(a) * np.float32(scale), np.ascontiguousarray(b))


def _described(path: str | Path, lora: LoRATree, metadata: Mapping[str, str], origin: str, family: str) -> ExternalLoRA:
    ours = _our_header(metadata)
    return ExternalLoRA(
        lora=lora,
        name=lora_name(path),
        trigger=plain_text(ours.get("trigger") or metadata.get("modelspec.trigger_phrase")),
        base_name=plain_text(
            ours.get("base_name") or metadata.get("ss_sd_model_name") or metadata.get("ss_base_model_version")
        ),
        base_digest=digest if isinstance(digest := ours.get("base_digest"), str) and _DIGEST.fullmatch(digest) else "",
        base_family=ours["base_family"] if ours.get("base_family") in FAMILIES else family,
        origin=origin,
    )


def _our_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The header that `merge.export` wrote, or {} if there is none."""
    try:
        header = parse_json(metadata.get("blocklora", "{}"), "the header")
    except UserError:
        return {}
    return header if isinstance(header, dict) else {}
