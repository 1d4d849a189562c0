"""SVD: the sum of all changes, reduced in every layer to a low rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.check import check_merge
from merge.concatenate import concatenate_each
from merge.methods.method import NoSettings, from_params
from merge.methods.task_vectors import Params, change_layers
from merge.truncate import truncate_each


@dataclass(frozen=True, kw_only=True)
class SvdSettings(NoSettings):
    """Settings of the SVD."""

    max_rank: int | None = None
    """The rank of the merged change in each layer. Default: the largest rank of the adapters."""


def svd(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    max_rank: int | None = None,
    check_base: bool = True,
) -> Params:
    """`params` + the best approximation of rank `max_rank` of the sum of all changes. Tokens are appended.

    Raises: UserError like `compose`, except that the adapters may own the same weights, and for a rank below 1.

    Source: `peft` `add_weighted_adapter(combination_type="svd")`.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter(name, params, slots=(0,), layers="cross_kv") for name in ("ada", "bob")]
    >>> whole, least = svd(params, adapters, max_rank=4), svd(params, adapters, max_rank=1)
    >>> "mid_block" in least["unet"]
    True
    """
    factors = check_merge(params, adapters, weights, allow_overlap=True, check_base=check_base)
    rank = largest_rank(adapters) if max_rank is None else max_rank
    lowrank, _ = truncate_each(concatenate_each(adapters, weights, allow_overlap=True), rank)
    pairs = {f"{component}/{path}": pair for component, group in lowrank.items() for path, pair in group.items()}

    def change(layer: str, shape: tuple[int, ...]) -> np.ndarray:
        a, b = pairs[layer]
        return a @ b

    return change_layers(params, adapters, factors, change)


def largest_rank(adapters: Sequence[Adapter]) -> int:
    """The largest rank of any layer; 1 if there is none."""
    ranks = (pair.lora_A.shape[1] for a in adapters for layers in a.lora.values() for pair in layers.values())
    return max(ranks, default=1)


merge_by_svd = from_params(svd)
