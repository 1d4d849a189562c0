"""Magnitude pruning: keeps the largest entries of every change, and adds the changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from blocklora_jax.adapters.adapter import Adapter
from merge.methods.method import NoSettings, from_params
from merge.methods.task_vectors import Params, check_density, merge_task_vectors, weighted_sum
from merge.methods.ties import keep_largest


@dataclass(frozen=True, kw_only=True)
class MagnitudeSettings(NoSettings):
    """Settings of magnitude pruning."""

    density: float = 0.5
    """The share of the entries of every change that is kept, the largest ones. Above 0, at most 1."""


def magnitude(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    density: float = 0.5,
    check_base: bool = True,
) -> Params:
    """`params` with the largest entries of every adapter's changes added, and their tokens appended.

    density: the share of the entries of each change that is kept, in (0, 1].

    Raises: UserError like `merge_task_vectors`, and for a density outside (0, 1].

    Source: `peft.utils.merge_utils.magnitude_prune`.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> merged = magnitude(params, [random_adapter("ada", params, slots=(0,), layers="cross_kv")], density=0.5)
    >>> "mid_block" in merged["unet"]
    True
    """
    check_density(density)
    rule = partial(magnitude_rule, density=density)
    return merge_task_vectors(params, adapters, weights, rule, check_base=check_base)


def magnitude_rule(deltas: Float[Array, "k n m"], weights: Float[Array, " k"], density: float) -> Float[Array, "n m"]:
    """sum_k w_k (the largest entries of dW_k)."""
    return weighted_sum(jax.vmap(partial(keep_largest, density=density))(deltas), weights)


merge_by_magnitude = from_params(magnitude)
