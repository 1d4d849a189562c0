"""KnOTS: aligns the changes of a layer by one SVD, and merges what is left of each by TIES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.check import check_merge
from merge.methods.method import NoSettings, from_params
from merge.methods.task_vectors import Params, change_layers, check_density
from merge.methods.ties import ties_rule

# Directions with less than this share of the largest singular value carry nothing but rounding.
_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class KnotsSettings(NoSettings):
    """Settings of KnOTS."""

    density: float = 0.2
    """The share of the entries of every aligned change that is kept, the largest ones. Above 0, at most 1."""


def knots(
    params: Params,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    density: float = 0.2,
    check_base: bool = True,
) -> Params:
    """`params` with the adapters merged by KnOTS with TIES, and their tokens appended.

    The changes of a layer, one above the other, are [dW_1; …; dW_k] = [P_1; …; P_k] V with V orthonormal. The parts P_k
    [n, q] then speak of the same output directions V [q, m]. TIES merges them into P, and the layer changes by P V.

    density: the share of the entries of each part that is kept, in (0, 1].

    Raises: UserError like `merge_task_vectors`, and for a density outside (0, 1].

    Source: KnOTS (arXiv 2410.19735), `concat_across_output`. There the entries to keep are chosen over all layers
    together; here in each layer by itself, as PEFT does for TIES.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> merged = knots(params, [random_adapter("ada", params, slots=(0,), layers="cross_kv")], density=0.5)
    >>> "mid_block" in merged["unet"]
    True
    """
    check_density(density)
    factors = check_merge(params, adapters, weights, allow_overlap=True, check_base=check_base)
    rule = jax.jit(partial(ties_rule, density=density))

    def change(layer: str, shape: tuple[int, ...]) -> np.ndarray:
        component, _, path = layer.partition("/")
        pairs = [
            (np.asarray(pair.lora_A) * np.float32(adapter.info.scale), np.asarray(pair.lora_B), weight)
            for adapter, weight in zip(adapters, factors, strict=True)
            if (pair := adapter.lora.get(component, {}).get(path)) is not None
        ]
        parts, common = aligned_parts([(a, b) for a, b, _ in pairs])
        merged = rule(jnp.asarray(parts), jnp.asarray([weight for *_, weight in pairs], jnp.float32))
        return np.asarray(merged) @ common

    return change_layers(params, adapters, factors, change)


def aligned_parts(
    pairs: Sequence[tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r m"]]],
) -> tuple[Float[np.ndarray, "k n q"], Float[np.ndarray, "q m"]]:
    """P_k and V with A_k B_k = P_k V, where V has orthonormal rows: the SVD of all changes, one above the other.

    It is computed from the factors: their ranks add up to less than the rows of the changes.

    >>> parts, common = aligned_parts([(np.eye(2), np.eye(2)), (np.eye(2), 2 * np.eye(2))])
    >>> np.allclose(parts[1] @ common, 2 * np.eye(2), atol=1e-6)
    True
    """
    bases, rows = [], []
    for a, b in pairs:
        q, r = np.linalg.qr(np.asarray(a, np.float64))
        bases.append(q)
        rows.append(r @ np.asarray(b, np.float64))
    u, sizes, v = np.linalg.svd(np.concatenate(rows), full_matrices=False)
    kept = max(1, int((sizes > _LEAST * sizes[0]).sum()))
    edges = np.cumsum([len(row) for row in rows])[:-1]
    shares = np.split(u[:, :kept] * sizes[:kept], edges)
    parts = np.stack([q @ share for q, share in zip(bases, shares, strict=True)])
    return parts.astype(np.float32), v[:kept].astype(np.float32)


merge_by_knots = from_params(knots)
