"""DARE with TIES: drops entries at random and enlarges the rest, then elects a sign and averages those that agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from blocklora_jax.adapters.adapter import Adapter
from merge.methods.dare import DareSettings, with_random_mask
from merge.methods.method import Merged
from merge.methods.task_vectors import Params, merge_task_vectors
from merge.methods.ties import elect_and_average

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion


def dare_ties(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    density: float = 0.5,
    seed: int = 0,
    check_base: bool = True,
) -> Params:
    """`params` with the adapters merged by DARE and TIES' election of signs, and their tokens appended.

    density: the probability that an entry is kept, in (0, 1]. seed: seed of the choice of these entries.

    Raises: UserError like `merge_task_vectors`, and for a density outside (0, 1].

    Source: DARE (arXiv 2311.03099), section 3.3; `peft.utils.merge_utils.dare_ties` with majority sign "total".

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> merged = dare_ties(params, [random_adapter("ada", params, slots=(0,), layers="cross_kv")], density=0.5)
    >>> "mid_block" in merged["unet"]
    True
    """
    rule = with_random_mask(dare_ties_rule, density, seed)
    return merge_task_vectors(params, adapters, weights, rule, check_base=check_base)


def dare_ties_rule(
    deltas: Float[Array, "k n m"], weights: Float[Array, " k"], kept: Bool[Array, "k n m"], density: float
) -> Float[Array, "n m"]:
    """TIES' election and average of kept_k dW_k / density."""
    return elect_and_average(jnp.where(kept, deltas, 0.0) / density, weights)


def merge_by_dare_ties(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: DareSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """DARE with TIES, with the common signature."""
    density, seed = settings.density, settings.mask_seed
    return Merged(dare_ties(sd.params, adapters, weights, density=density, seed=seed, check_base=check_base), adapters)
