"""Approximates a LoRA by one of lower rank, such as the sum of several adapters, whose ranks add up."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from blocklora_jax.checks.bounds import check_number
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LowRank


def truncate(lowrank: LowRank, max_rank: int) -> tuple[LowRank, float]:
    """`lowrank` with every layer's rank at most `max_rank`, and |change left out|_F / |change|_F over all layers.

    Layers whose rank is not larger are kept unchanged. Raises UserError if `max_rank` is less than 1.

    Source: the truncated SVD of A @ B is the best approximation of its rank (Eckart and Young). It is computed from the
    QR decompositions of the factors, without the whole matrix.
    """
    layers = ((component, layer, pair) for component, group in lowrank.items() for layer, pair in group.items())
    small, error = truncate_each(layers, max_rank)
    # Components without layers stay.
    return {component: small.get(component, {}) for component in lowrank}, error


def truncate_each(
    layers: Iterable[tuple[str, str, tuple[np.ndarray, np.ndarray]]], max_rank: int
) -> tuple[dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], float]:
    """Like `truncate`, of layers that are given one at a time, so that only the small pairs are in memory."""
    if max_rank < 1:
        raise UserError(f"max_rank is {max_rank}; it must be at least 1")
    check_number("max_rank", max_rank)
    lost = total = 0.0
    small: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for component, layer, (a, b) in layers:
        small.setdefault(component, {})[layer], singular = _truncate_pair(a, b, max_rank)
        lost += float(np.sum(singular[max_rank:] ** 2)) if a.shape[1] > max_rank else 0.0
        total += float(np.sum(singular**2))
    return small, (lost / total) ** 0.5 if total else 0.0


def _truncate_pair(
    a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "k m"], rank: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The pair of the given rank, and the singular values of a @ b."""
    q_a, r_a = np.linalg.qr(np.asarray(a, np.float64))
    q_b, r_b = np.linalg.qr(np.asarray(b, np.float64).T)
    u, singular, v = np.linalg.svd(r_a @ r_b.T)
    if a.shape[1] <= rank:
        return (a, b), singular
    # A small layer has fewer singular values than the rank.
    root = np.sqrt(singular[:rank])
    kept = len(root)
    short = q_a @ (u[:, :kept] * root[None, :]), (root[:, None] * v[:kept]) @ q_b.T
    return (short[0].astype(np.float32), short[1].astype(np.float32)), singular
