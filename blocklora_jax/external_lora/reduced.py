"""The best approximation of a change by a pair of a given rank, and what it leaves out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.changes import Change, Dense, Factors, Kronecker, exact_pair
from blocklora_jax.layouts.low_rank import LoRAPair


class Loss(NamedTuple):
    """Squared Frobenius norms of what is left out and of the whole change, both with the scale in them."""

    lost: float
    total: float


def reduced_pair(change: Change, scale: float, rank: int) -> tuple[LoRAPair, Loss]:
    """The pair of at most this rank that is nearest to the change times `scale`, and the loss.

    A change whose factors are not longer is kept exactly.

    Source: the truncated SVD is the best approximation of its rank (Eckart and Young). The SVD of a Kronecker product
    is that of its factors, in the order of the products of singular values.
    """
    if isinstance(change, Factors) and change.up.shape[1] <= rank:
        total = _squared(change)
        return exact_pair(change, scale), Loss(0.0, total * scale**2)
    if isinstance(change, Factors):
        factors, loss = _of_factors(change, rank)
    elif isinstance(change, Kronecker):
        factors, loss = _of_kronecker(change, rank)
    else:
        factors, loss = _of_dense(change, rank)
    return exact_pair(factors, scale), Loss(loss.lost * scale**2, loss.total * scale**2)


def _of_dense(change: Dense, rank: int) -> tuple[Factors, Loss]:
    """From the eigenvectors of the smaller Gram matrix, in fp64."""
    weight = change.weight
    flat = np.asarray(weight.reshape(len(weight), -1), np.float64)
    wide = flat.shape[1] >= flat.shape[0]
    values, vectors = np.linalg.eigh(flat @ flat.T if wide else flat.T @ flat)
    values, vectors = values[::-1], vectors[:, ::-1][:, :rank]
    up, down = (vectors, vectors.T @ flat) if wide else (flat @ vectors, vectors.T)
    # Both factors get the root of the singular values, so that neither overflows in half precision.
    root = np.sqrt(np.sqrt(np.maximum(values[:rank], 0.0))) + 1e-30
    up, down = (up * root, down / root[:, None]) if wide else (up / root, down * root[:, None])
    total = float(np.sum(flat * flat))
    return _factors(up, down, weight.shape), Loss(max(0.0, float(values[rank:].sum())), total)


def _of_factors(change: Factors, rank: int) -> tuple[Factors, Loss]:
    q_up, r_up = np.linalg.qr(np.asarray(change.up, np.float64))
    q_down, r_down = np.linalg.qr(np.asarray(change.down.reshape(len(change.down), -1), np.float64).T)
    u, singular, v = np.linalg.svd(r_up @ r_down.T)
    root = np.sqrt(singular[:rank])
    up, down = q_up @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ q_down.T
    shape = (len(change.up), *change.down.shape[1:])
    return _factors(up, down, shape), Loss(float(np.sum(singular[rank:] ** 2)), float(np.sum(singular**2)))


def _of_kronecker(change: Kronecker, rank: int) -> tuple[Factors, Loss]:
    left, right = np.asarray(change.left, np.float64), np.asarray(change.right, np.float64)
    u1, s1, v1 = np.linalg.svd(left, full_matrices=False)
    u2, s2, v2 = np.linalg.svd(right.reshape(len(right), -1), full_matrices=False)
    products = np.multiply.outer(s1, s2).reshape(-1)
    chosen = np.argsort(-products, kind="stable")[:rank]
    i, j = np.divmod(chosen, len(s2))
    root = np.sqrt(products[chosen])
    up = np.einsum("pk,sk->psk", u1[:, i], u2[:, j]).reshape(-1, len(chosen)) * root
    rows = v2[j].reshape(len(chosen), *right.shape[1:])
    down = np.einsum("kq,kt...->kqt...", v1[i], rows) * root.reshape(-1, *(1,) * right.ndim)
    shape = (len(left) * len(right), left.shape[1] * right.shape[1], *right.shape[2:])
    total = float(np.sum(products**2))
    return _factors(up, down, shape), Loss(max(0.0, total - float(np.sum(products[chosen] ** 2))), total)


def _factors(up: Float[np.ndarray, "m r"], down: np.ndarray, shape: tuple[int, ...]) -> Factors:
    return Factors(up.astype(np.float32), down.reshape(-1, *shape[1:]).astype(np.float32))


def _squared(change: Factors) -> float:
    """The squared Frobenius norm of the product, from the factors' Gram matrices."""
    up, down = np.asarray(change.up, np.float64), np.asarray(change.down.reshape(len(change.down), -1), np.float64)
    return max(0.0, float(np.sum((up.T @ up) * (down @ down.T))))
