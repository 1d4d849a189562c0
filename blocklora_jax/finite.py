"""Numbers that are numbers: finding NaN and infinity, and making tensors narrower without making any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.core import Tracer

from blocklora_jax.checkpoints.trees import flatten_params
from blocklora_jax.errors import UserError

if TYPE_CHECKING:
    from blocklora_jax.adapters.lora import Adapter


def is_finite(array: Any) -> bool:
    """Whether there is neither NaN nor infinity in an array of floats of any size; others are finite."""
    x = np.asarray(array)
    if x.dtype.kind in "biu":
        return True
    # Many times faster than looking at each, and finite only if all are.
    with np.errstate(over="ignore", invalid="ignore"):
        return isfinite(_squares(x)) or bool(np.isfinite(x).all())


def largest_change(adapter: Adapter) -> float:
    """No entry of the adapter's changes is larger, alpha included; infinite or NaN if one is, 0 inside jit."""
    pairs = [pair for layers in adapter.lora.values() for pair in layers.values()]
    if any(isinstance(x, Tracer) for pair in pairs for x in pair):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = [_squares(np.asarray(a)) ** 0.5 * _squares(np.asarray(b)) ** 0.5 for a, b in pairs]
    return sum(sizes) * abs(adapter.info.scale)


def narrow(name: str, array: Any, dtype: np.dtype) -> np.ndarray:
    """`array` as `dtype`, contiguous: safetensors writes wrong data, silently, for an array that is not.

    Raises: UserError naming the tensor, if it has NaN or infinity, or values beyond the range of `dtype`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(array, dtype)
    if is_finite(cast):
        return cast
    if not is_finite(array):
        raise UserError(
            f"{name} has values that are not finite (NaN or infinity): it is damaged, or its training failed"
        )
    wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(dtype.name, "")
    advice = f"save as {wider}, or merge with smaller weights" if wider else "merge with smaller weights"
    raise UserError(f"{name} has values beyond the range of {dtype.name}; {advice}")


def nonfinite_parts(adapter: Adapter) -> list[str]:
    """What of an adapter has NaN or infinity: "alpha", "unet/…/to_k lora_A", "token <ada>". Nothing inside jit."""
    # Most often all is well, which one number tells.
    tokens = [*adapter.tokens.values(), *adapter.tokens_2.values()]
    if isfinite(largest_change(adapter)) and all(isinstance(x, Tracer) or is_finite(x) for x in tokens):
        return []
    scale = [] if np.isfinite(adapter.info.scale) else ["alpha"]
    return scale + [name for name, array in _arrays(adapter) if not isinstance(array, Tracer) and not is_finite(array)]


def check_finite(adapters: Sequence[Adapter]) -> None:
    """Raises UserError naming the adapters that have NaN or infinity, and where."""
    if problems := nonfinite_problems(adapters):
        raise UserError("; ".join(problems))


def nonfinite_problems(adapters: Sequence[Adapter]) -> list[str]:
    """The same in words, one an adapter."""
    found = {adapter.name: nonfinite_parts(adapter) for adapter in adapters}
    return [
        f"{name!r} has values that are not finite (NaN or infinity) in {_some(parts)}: the file is damaged, or its "
        "training failed; take another copy or train it again"
        for name, parts in found.items()
        if parts
    ]


def nonfinite_leaves(params: Mapping[str, Any]) -> list[str]:
    """Paths of the parameters that have NaN or infinity. Reads all of them."""
    return [path for path, leaf in flatten_params(params).items() if not is_finite(leaf)]


def _squares(x: np.ndarray) -> float:
    """The sum of squares: not finite if an entry is not, or if it is too large."""
    if x.size and not any(x.strides):
        # One number stands for all (see `merge.record.outline`): spread out, it could fill the memory.
        x = x[(slice(0, 1),) * x.ndim]
    flat = x.ravel(order="K")
    flat = flat if flat.itemsize >= 4 else flat.astype(np.float32)
    return float(np.dot(flat, flat))


def _arrays(adapter: Adapter) -> Iterator[tuple[str, Any]]:
    for component, layers in adapter.lora.items():
        for layer, pair in layers.items():
            yield f"{component}/{layer} lora_A", pair.lora_A
            yield f"{component}/{layer} lora_B", pair.lora_B
    for tokens in (adapter.tokens, adapter.tokens_2):
        yield from ((f"token {token}", vectors) for token, vectors in tokens.items())


def _some(items: Sequence[str], limit: int = 2) -> str:
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
