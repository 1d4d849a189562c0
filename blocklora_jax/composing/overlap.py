"""Finds the weights that two adapters both own. On these weights they disturb each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo


def overlapping_layers(adapters: Sequence[Adapter]) -> set[str]:
    """The layers ("unet/…/to_k") in which two or more of `adapters` own the same weights."""
    return {layer for one, other in combinations(adapters, 2) for layer in shared_layers(one, other)}


def layers_on_grid(adapters: Sequence[Adapter]) -> set[str]:
    """The layers whose changes are rounded to a grid (see `composing.grid`).

    All adapters of such a layer have slots of their own in one basis. One adapter alone counts too.
    """
    if not any(adapter.info.partition and adapter.info.partition.basis for adapter in adapters):
        return set()
    infos: dict[str, list[AdapterInfo]] = defaultdict(list)
    for adapter in adapters:
        for component, layers in adapter.lora.items():
            for layer in layers:
                infos[f"{component}/{layer}"].append(adapter.info)
    return {layer for layer, found in infos.items() if _in_one_basis(found)}


def _in_one_basis(infos: Sequence[AdapterInfo]) -> bool:
    first, slots = infos[0].partition, [slot for info in infos for slot in info.slots]
    in_basis = first is not None and bool(first.basis) and all(info.partition == first for info in infos)
    return in_basis and len(set(slots)) == len(slots)


def own_blocks(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters have different slots of one partition.

    In a basis they may still change the same weights.
    """
    a, b = one.info, other.info
    return a.partition is not None and a.partition == b.partition and not set(a.slots) & set(b.slots)


def colliding_layers(one: Adapter, other: Adapter) -> list[str]:
    """The layers in which both adapters own the same weights, or the same directions of a basis."""
    return [] if own_blocks(one, other) else shared_layers(one, other)


def shared_layers(one: Adapter, other: Adapter) -> list[str]:
    """The layers in which both adapters own some of the same weights."""
    a, b = one.info, other.info
    same = a.partition is not None and a.partition == b.partition
    if own_blocks(one, other) and not (a.partition and a.partition.basis):
        return []
    certain = same or a.partition is None or b.partition is None
    shapes, other_shapes = one.shapes(), other.shapes()
    return sorted(one.vectors.keys() & other.vectors.keys()) + [
        f"{component}/{layer}"
        for component in shapes.keys() & other_shapes.keys()
        for layer in shapes[component].keys() & other_shapes[component].keys()
        if certain or _meet(a, b, component, layer, shapes[component][layer])
    ]


def _meet(a: AdapterInfo, b: AdapterInfo, component: str, layer: str, shape: tuple[int, int]) -> bool:
    one, other = a.support(component, layer, shape), b.support(component, layer, shape)
    return all(np.intersect1d(x, y, assume_unique=True).size > 0 for x, y in zip(one, other, strict=True))
