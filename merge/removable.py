"""Whether a concept's part of merged weights can be separated from the other concepts' parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.grid import is_on_grid
from blocklora_jax.composing.overlap import layers_on_grid, shared_layers
from blocklora_jax.errors import UserError
from merge.manifest import has_values


def check_removable(adapters: Sequence[Adapter], name: str) -> int:
    """Where the concept `name` is among the merged `adapters`, if its part can be told from the others'.

    Raises: UserError for an unknown name, for others that share its weights otherwise than in a basis, and where they
        do in a basis, if the concept's adapter has no values.
    """
    found = [i for i, adapter in enumerate(adapters) if adapter.name == name]
    if len(found) != 1:
        raise UserError(f"{len(found)} of the merged concepts are named {name!r}: {[a.name for a in adapters]}")
    own, grid = adapters[found[0]], layers_on_grid(adapters)
    shared = {other.name: set(shared_layers(own, other)) for i, other in enumerate(adapters) if i != found[0]}
    if mixed := [repr(other) for other, layers in shared.items() if layers - grid]:
        raise UserError(
            f"{name!r} shares weights with {', '.join(mixed)}, so its part cannot be separated: merge the others again"
        )
    if any(shared.values()) and not has_values(own):
        raise UserError(
            f"{_sharing(name, shared)} in a basis: the file of {name!r} is needed too, to subtract what it added "
            f"(--adapter FILE); without it, merge the others again"
        )
    return found[0]


def shares_in_basis(adapters: Sequence[Adapter], name: str) -> bool:
    """Whether others of the merged `adapters` change the same weights as `name`, in a basis."""
    grid = layers_on_grid(adapters)
    own = [adapter for adapter in adapters if adapter.name == name]
    return any(grid & set(shared_layers(own[0], other)) for other in adapters if other is not own[0])


def too_coarse(name: str, dtype: str) -> str:
    """What is wrong with merged weights in `dtype`."""
    return (
        f"{name!r} shares weights with others in a basis, and {dtype} is too coarse to separate its part: "
        "merge the others again, or save merged models in float32"
    )


def _sharing(name: str, others: Mapping[str, Collection[str]]) -> str:
    names = [repr(other) for other, layers in others.items() if layers]
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return f"{name!r} shares weights with {', '.join(names[:3])}{more}"


def check_on_grid(leaves: Mapping[str, Any], base: Mapping[str, Any], paths: Iterable[str], name: str) -> None:
    """Raises UserError unless the sums of changes in the kernels `paths` can be told."""
    for path in paths:
        arrays = leaves[path], base[path]
        if coarse := [array.dtype.name for array in arrays if array.dtype != np.float32]:
            raise UserError(too_coarse(name, coarse[0]))
        if not any(isinstance(array, Tracer) for array in arrays) and not is_on_grid(*arrays):
            raise UserError(
                f"{name!r} shares weights with others in a basis, and its part in {path} cannot be separated exactly: "
                "an older version merged them, or the base is another, or the changes are more than 7 times as large "
                "as the base's weights; merge the others again"
            )
