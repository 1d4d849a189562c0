"""DARE: drop most entries of every change at random and enlarge the rest, so that the expected change stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.errors import UserError
from merge.methods.task_vectors import Params, merge_task_vectors


def dare(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    density: float = 0.5,
    seed: int = 0,
    check_base: bool = True,
) -> Params:
    """`params` with the adapters merged by DARE, tokens appended. density: chance of an entry to be kept, in (0, 1].

    Raises: UserError as `merge_task_vectors`, or for a density outside (0, 1].

    Source: DARE (arXiv 2311.03099); `peft.utils.merge_utils.dare_linear`.
    """
    if not 0 < density <= 1:
        raise UserError(f"density must be in (0, 1], not {density}")
    check_number("seed", seed)

    def rule(deltas: Float[Array, "k n m"], weights: Float[Array, " k"]) -> Float[Array, "n m"]:
        # Layers of one shape share a mask: it is as random to each of them.
        kept = jax.random.bernoulli(jax.random.key(seed), density, deltas.shape)
        return dare_rule(deltas, weights, kept, density)

    return merge_task_vectors(params, adapters, weights, rule, check_base=check_base)


def dare_rule(
    deltas: Float[Array, "k n m"], weights: Float[Array, " k"], kept: Bool[Array, "k n m"], density: float
) -> Float[Array, "n m"]:
    """sum_k w_k kept_k dW_k / density."""
    return jnp.sum(jnp.where(kept, deltas, 0.0) * weights[:, None, None], axis=0) / density
