"""DARE: drops most entries of every change at random and enlarges the rest, which keeps the expected change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import check_number
from merge.methods.method import Merged, NoSettings
from merge.methods.task_vectors import Params, Rule, check_density, merge_task_vectors, weighted_sum

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion


@dataclass(frozen=True, kw_only=True)
class DareSettings(NoSettings):
    """Settings of DARE."""

    density: float = 0.5
    """The probability that an entry of a change is kept. Above 0, at most 1."""
    mask_seed: int = 0
    """Seed of the choice of the entries that are kept."""


def dare(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    density: float = 0.5,
    seed: int = 0,
    check_base: bool = True,
) -> Params:
    """`params` with the adapters merged by DARE, and their tokens appended.

    density: the probability that an entry is kept, in (0, 1]. seed: seed of the choice of these entries.

    Raises: UserError like `merge_task_vectors`, and for a density outside (0, 1].

    Source: DARE (arXiv 2311.03099); `peft.utils.merge_utils.dare_linear`.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> slots = {"ada": (0,), "bob": (1,)}
    >>> adapters = [random_adapter(name, params, slots=slots[name], layers="cross_kv") for name in slots]
    >>> merged = dare(params, adapters, density=0.5, seed=1)
    >>> "mid_block" in merged["unet"]
    True
    """
    rule = with_random_mask(dare_rule, density, seed)
    return merge_task_vectors(params, adapters, weights, rule, check_base=check_base)


def with_random_mask(rule: Callable[..., Any], density: float, seed: int) -> Rule:
    """`rule(deltas, weights, kept, density)` with entries that are kept at random, as `merge_task_vectors` calls it.

    Raises: UserError for a density outside (0, 1], and for an impossible seed.
    """
    check_density(density)
    check_number("seed", seed)

    def masked(deltas: Float[Array, "k n m"], weights: Float[Array, " k"]) -> Float[Array, "n m"]:
        # Layers of one shape share a mask, which is random for each of them.
        kept = jax.random.bernoulli(jax.random.key(seed), density, deltas.shape)
        return rule(deltas, weights, kept, density)

    return masked


def dare_rule(
    deltas: Float[Array, "k n m"], weights: Float[Array, " k"], kept: Bool[Array, "k n m"], density: float
) -> Float[Array, "n m"]:
    """sum_k w_k kept_k dW_k / density."""
    return weighted_sum(jnp.where(kept, deltas, 0.0), weights) / density


def merge_by_dare(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: DareSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """DARE with the common signature. (`--seed` is the seed of pictures, so the mask's seed has another name.)"""
    density, seed = settings.density, settings.mask_seed
    return Merged(dare(sd.params, adapters, weights, density=density, seed=seed, check_base=check_base), adapters)
