"""TIES: trims small changes, elects a sign for every weight, and averages the changes that agree with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blocklora_jax.adapters.adapter import Adapter
from merge.methods.method import NoSettings, from_params
from merge.methods.task_vectors import Params, check_density, merge_task_vectors


@dataclass(frozen=True, kw_only=True)
class TiesSettings(NoSettings):
    """Settings of TIES."""

    density: float = 0.2
    """The share of the entries of every change that is kept, the largest ones. Above 0, at most 1."""


def ties(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    density: float = 0.2,
    check_base: bool = True,
) -> Params:
    """`params` with the adapters merged by TIES, and their tokens appended.

    density: the share of the entries of each change that is kept, in (0, 1].

    Raises: UserError like `merge_task_vectors`, and for a density outside (0, 1].

    Source: TIES-Merging (arXiv 2306.01708); `peft.utils.merge_utils.ties` with majority sign "total".

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> slots = {"ada": (0,), "bob": (1,)}
    >>> adapters = [random_adapter(name, params, slots=slots[name], layers="cross_kv") for name in slots]
    >>> merged = ties(params, adapters, density=0.2)
    >>> "mid_block" in merged["unet"]
    True
    """
    check_density(density)
    return merge_task_vectors(params, adapters, weights, partial(ties_rule, density=density), check_base=check_base)


def ties_rule(deltas: Float[Array, "k n m"], weights: Float[Array, " k"], density: float) -> Float[Array, "n m"]:
    """The mean of weight * trimmed change over the changes that have the elected sign; 0 where there is none."""
    return elect_and_average(jax.vmap(partial(keep_largest, density=density))(deltas), weights)


def elect_and_average(sparse: Float[Array, "k n m"], weights: Float[Array, " k"]) -> Float[Array, "n m"]:
    """The mean of weight * change over the changes that have the sign of their sum; 0 where there is none."""
    elected = jnp.where(sparse.sum(0) >= 0, 1.0, -1.0)
    agrees = jnp.sign(sparse) == elected[None]
    total = jnp.sum(sparse * weights[:, None, None] * agrees, axis=0)
    return total / jnp.maximum(agrees.sum(0), 1)


def keep_largest(x: Float[Array, "n m"], density: float) -> Float[Array, "n m"]:
    """`x`, with 0 for all entries except the int(density * size) largest in magnitude. Of equal ones, the first.

    The least that is kept is found by halving an interval, which reads the entries some fifty times. On a CPU, sorting
    them takes four to seven times as long.
    """
    flat = x.reshape(-1)
    # As integers, positive floats have the same order.
    sizes, count = jax.lax.bitcast_convert_type(jnp.abs(flat), jnp.int32), int(density * flat.size)
    least = _largest(lambda bound: (sizes >= bound).sum() >= count, 31)
    above, equal, places = sizes > least, sizes == least, jnp.arange(flat.size, dtype=jnp.int32)
    room = count - above.sum()
    end = _largest(lambda bound: (equal & (places < bound)).sum() <= room, flat.size.bit_length())
    return jnp.where(above | (equal & (places < end)), flat, 0.0).reshape(x.shape)


def _largest(holds: Callable[[Array], Array], bits: int) -> Int[Array, ""]:
    """The largest integer of so many bits for which `holds` is true. It must be true for all smaller ones."""

    def halve(step: Array, found: Array) -> Array:
        larger = found | (1 << (bits - 1 - step))
        return jnp.where(holds(larger), larger, found)

    return jax.lax.fori_loop(0, bits, halve, jnp.int32(0))


merge_by_ties = from_params(ties)
