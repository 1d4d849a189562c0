"""Finds NaN and infinity in adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.finite import is_finite, sum_of_squares
from blocklora_jax.errors import UserError


def largest_change(adapter: Adapter) -> float:
    """A bound on the entries of the adapter's changes, alpha included. Not finite if an entry is not; 0 inside jit."""
    pairs = [pair for layers in adapter.lora.values() for pair in layers.values()]
    if any(isinstance(x, Tracer) for pair in pairs for x in pair):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = [sum_of_squares(np.asarray(a)) ** 0.5 * sum_of_squares(np.asarray(b)) ** 0.5 for a, b in pairs]
    return sum(sizes) * abs(adapter.info.scale)


def nonfinite_parts(adapter: Adapter) -> list[str]:
    """The parts with NaN or infinity, such as "alpha", "unet/…/to_k lora_A", "token <ada>". Empty inside jit."""
    # Usually all numbers are finite, and one bound shows it.
    others = [*adapter.tokens.values(), *adapter.tokens_2.values(), *adapter.vectors.values()]
    if isfinite(largest_change(adapter)) and all(isinstance(x, Tracer) or is_finite(x) for x in others):
        return []
    scale = [] if np.isfinite(adapter.info.scale) else ["alpha"]
    return scale + [name for name, array in _arrays(adapter) if not isinstance(array, Tracer) and not is_finite(array)]


def check_finite(adapters: Sequence[Adapter]) -> None:
    """Raises UserError naming the adapters that have NaN or infinity, and where."""
    if problems := nonfinite_problems(adapters):
        raise UserError("; ".join(problems))


def nonfinite_problems(adapters: Sequence[Adapter]) -> list[str]:
    """The messages of `check_finite`, one for each adapter with NaN or infinity."""
    parts_by_name = {adapter.name: nonfinite_parts(adapter) for adapter in adapters}
    return [
        f"{name!r} has values that are not finite (NaN or infinity) in {_some(parts)}: the file is damaged, or its "
        "training failed; take another copy or train it again"
        for name, parts in parts_by_name.items()
        if parts
    ]


def _arrays(adapter: Adapter) -> Iterator[tuple[str, Any]]:
    for component, layers in adapter.lora.items():
        for layer, pair in layers.items():
            yield f"{component}/{layer} lora_A", pair.lora_A
            yield f"{component}/{layer} lora_B", pair.lora_B
    for tokens in (adapter.tokens, adapter.tokens_2):
        yield from ((f"token {token}", vectors) for token, vectors in tokens.items())
    yield from adapter.vectors.items()


def _some(items: Sequence[str], limit: int = 2) -> str:
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
