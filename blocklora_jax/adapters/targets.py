"""Which layers are adapted: named sets of rules for paths, of which the first match decides."""

from __future__ import annotations

import re
from collections.abc import Mapping

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.components import ADAPTED
from blocklora_jax.layouts.low_rank import KernelShapes

# The first pattern that matches "component/path" decides. A layer that no pattern matches is not adapted.
LAYER_SETS: dict[str, tuple[tuple[str, bool], ...]] = {
    "cross_kv": ((r"^unet/.*attn2/to_[kv]$", True),),
    "attention": ((r"^unet/.*attn[12]/to_(q|k|v|out_0)$", True),),
    "full": (
        (r"^unet/.*attn[12]/to_(q|k|v|out_0)$", True),
        (r"^unet/.*(ff/net_0/proj|ff/net_2|proj_in|proj_out)$", True),
    ),
    "text_encoder": ((r"^text_encoder(_2)?/.*self_attn/(q|k|v|out)_proj$", True),),
}

_READS_TEXT = re.compile(r"^unet/.*attn2/to_[kv]$")


def reads_text(layer: str) -> bool:
    """Whether a layer ("unet/…/to_k") reads only text. Its inputs can be computed without drawing a picture."""
    return not layer.startswith("unet/") or bool(_READS_TEXT.match(layer))


def parse_layers(layers: str) -> tuple[tuple[str, bool], ...]:
    """The rules of a setting such as "cross_kv" or "attention+text_encoder". Raises UserError for an unknown name."""
    names = [name.strip() for name in layers.split("+")]
    unknown = [name for name in names if name not in LAYER_SETS]
    if unknown:
        raise UserError(
            f"unknown layer set {unknown[0]!r} in {layers!r}; join names of {', '.join(LAYER_SETS)} with '+'"
        )
    return tuple(rule for name in names for rule in LAYER_SETS[name])


def select_kernels(params: Mapping, layers: str) -> KernelShapes:
    """Kernel shapes (n, m) of the layers of `params` that the setting adapts. 1x1 convolutions count as linear.

    "text_encoder" includes both text encoders of SDXL.

    Raises UserError if the setting matches no layer of this model.
    """
    rules = parse_layers(layers)
    chosen: KernelShapes = {}
    for component in ADAPTED:
        shapes = {
            path: tuple(shape[-2:])
            for path, shape in _kernels(params.get(component, {}))
            if _adapted(f"{component}/{path}", rules) and (len(shape) == 2 or shape[:2] == (1, 1))
        }
        if shapes:
            chosen[component] = shapes
    if not chosen:
        raise UserError(f"layers={layers!r} matches no layer of this model")
    return chosen


def _adapted(path: str, rules: tuple[tuple[str, bool], ...]) -> bool:
    return next((use for pattern, use in rules if re.search(pattern, path)), False)


def _kernels(tree: Mapping, prefix: str = ""):
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from _kernels(value, f"{prefix}{name}/")
        elif name == "kernel" and prefix:
            yield prefix[:-1], tuple(value.shape)
