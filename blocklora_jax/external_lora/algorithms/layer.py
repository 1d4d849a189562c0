"""What an algorithm reads: the parts of one layer, the base's weight, and PEFT's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.changes import Change


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a file.

    component, path: as in `find_layer`.
    parts: fp32 arrays by the names of `parts.split_name`.
    weight: the base's weight in PyTorch's layout, fp32; None if the base is not at hand.
    settings: PEFT's settings of the component; empty if there are none.
    """

    component: str
    path: str
    parts: Mapping[str, np.ndarray]
    weight: Float[np.ndarray, "m n *window"] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Float[np.ndarray, "m n *window"]:
        """The base's weight. It must be at hand."""
        assert self.weight is not None
        return self.weight

    def number(self, part: str, default: float) -> float:
        """A part that is one number."""
        return float(self.parts[part].reshape(())) if part in self.parts else default


class Algorithm(NamedTuple):
    """A kind of adapter.

    name: what tables and records call it. title: what messages call it.
    marks: parts of which one shows that a layer is of this kind.
    others: parts that it may have besides, without those that every kind may have.
    shape: the shape of the change in PyTorch's layout, read from the parts' shapes; None if only the base shows it.
        Raises ValueError for parts that are missing or do not fit each other.
    change: the change without alpha.
    rank: by which alpha is divided; None: alpha is not a scale.
    needs_base: whether the change depends on the base's weight.
    peft_type: what PEFT's settings call it.
    """

    name: str
    title: str
    marks: frozenset[str]
    others: frozenset[str]
    shape: Callable[[Layer], tuple[int, ...] | None]
    change: Callable[[Layer], Change]
    rank: Callable[[Layer], int | None] = lambda layer: None
    needs_base: bool = False
    peft_type: str = ""


def required(layer: Layer, *names: str) -> list[np.ndarray]:
    """These parts. Raises ValueError naming what there is if one is missing."""
    if any(name not in layer.parts for name in names):
        raise ValueError(f"has only {', '.join(sorted(layer.parts))}")
    return [layer.parts[name] for name in names]


def demand(condition: bool) -> None:
    """Raises ValueError if the parts' shapes do not fit each other."""
    if not condition:
        raise ValueError("")
