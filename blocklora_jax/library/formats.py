"""Names the format of a LoRA file, its rank and its layers' shapes, from the names and shapes of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple

from blocklora_jax.layouts.dialects import find_layer
from blocklora_jax.layouts.families.recognise import Layer, Shape

# (pattern of a tensor's name, kind). The first one that occurs in a file names its kind.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"\.hada_w\d", "LoHa"),
    (r"\.lokr_w\d", "LoKr"),
    (r"\.(oft_blocks|oft_diag|oft_[rR])\b", "OFT"),
    (r"\.boft_", "BOFT"),
    (r"\.[ab][12]\.weight$", "GLoRA"),
    (r"\.(on_input|ia3_l)\b", "IA3"),
    (r"(^|\.)(dora_scale|lora_magnitude_vector)", "DoRA"),
    (r"\.(lora_mid|lora_t\d)\b", "LoCon with cores"),
    (r"\.(lora_(down|up|A|B)|lora\.(down|up)|lora_linear_layer)\b|_lora\.(down|up)\b", "LoRA"),
    (r"\.(diff|diff_b)$", "full differences"),
    (r"\.(w_norm|b_norm)$", "norms"),
)
# A layer's name ends where one of these begins.
_ENDING = re.compile(
    r"(?:\.(?:lora_\w+|lora|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|ia3_\w+|[ab][12]|dora_scale|lora_magnitude_vector|alpha"
    r"|diff|diff_b|w_norm|b_norm|weight|on_input|scalar|reshape_weight)|_lora)(?:\..*)?$"
)


class Format(NamedTuple):
    """What a file's tensors are.

    kind: "LoRA", "LoHa", …; "" if it is none of these. rank: the largest of all layers. heads: the layers' names in the
    file. layers: those of them that the models have, with the shapes of their weights.
    """

    kind: str
    rank: int
    heads: frozenset[str]
    layers: Mapping[Layer, Shape]


def read_format(shapes: Mapping[str, tuple[int, ...]]) -> Format:
    """The format of a file with tensors of these names and shapes.

    >>> q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
    >>> found = read_format({f"{q}.lora_down.weight": (4, 320), f"{q}.lora_up.weight": (320, 4)})
    >>> found.kind, found.rank, list(found.layers.values())
    ('LoRA', 4, [Shape(inputs=320, outputs=320, axes=2)])
    """
    heads: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if match := _ENDING.search(key):
            heads.setdefault(key[: match.start()], {})[match[0].lstrip(".")] = shape
    layers, ranks = {}, [0]
    for head, parts in heads.items():
        if (layer := find_layer(head)) is not None:
            layers[layer] = _weight_shape(parts)
        ranks.append(_rank(parts))
    return Format(_kind(shapes), max(ranks), frozenset(heads), layers)


def _kind(keys: Iterable[str]) -> str:
    joined = "\n".join(keys)
    names = [name for pattern, name in _KINDS if re.search(pattern.replace("$", r"(?:$|\n)"), joined, re.M)]
    return names[0] if names else ""


def _part(parts: Mapping[str, tuple[int, ...]], pattern: str) -> tuple[int, ...] | None:
    return next((shape for name, shape in parts.items() if re.match(pattern, name)), None)


def _pair(parts: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """The shapes of the down and the up projection."""
    down = _part(parts, r"(lora_(down|A|linear_layer\.down)|lora\.down|_lora\.down)")
    return down, _part(parts, r"(lora_(up|B|linear_layer\.up)|lora\.up|_lora\.up)")


def _rank(parts: Mapping[str, tuple[int, ...]]) -> int:
    down, _ = _pair(parts)
    first = down or _part(parts, r"hada_w1_b") or _part(parts, r"lokr_w2_b") or _part(parts, r"a1\b")
    return first[0] if first else 0


def _weight_shape(parts: Mapping[str, tuple[int, ...]]) -> Shape:
    """Inputs, outputs and axes of the layer's weight; zeros if they are not known."""
    down, up = _pair(parts)
    if down and len(down) > 1 and up:
        return Shape(down[1], up[0], len(down))
    a, b = (_matrix(parts, rf"hada_w1_{side}") for side in "ab")
    if a and b:
        core = _part(parts, r"hada_t1")
        return Shape(b[1], a[1] if core else a[0], 4 if core else 0)
    if one := _kron_factor(parts, "1"):
        two = _kron_factor(parts, "2")
        return Shape(one[1] * two[1], one[0] * two[0]) if two else Shape(0, 0)
    if whole := _matrix(parts, r"diff$"):
        return Shape(whole[1], whole[0], len(whole))
    return Shape(0, 0)


def _matrix(parts: Mapping[str, tuple[int, ...]], pattern: str) -> tuple[int, ...] | None:
    """The shape of a part with at least two axes; damaged files have others."""
    shape = _part(parts, pattern)
    return shape if shape and len(shape) > 1 else None


def _kron_factor(parts: Mapping[str, tuple[int, ...]], number: str) -> tuple[int, int] | None:
    if whole := _matrix(parts, rf"lokr_w{number}$"):
        return whole[0], whole[1]
    a, b = (_matrix(parts, rf"lokr_w{number}_{side}") for side in "ab")
    return (a[0], b[1]) if a and b and not _part(parts, r"lokr_t") and prod(a) and prod(b) else None
