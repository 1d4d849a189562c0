"""Changes of weights in PyTorch's layout, dense or as factors, and the products of which LyCORIS builds them.

A weight is [m, n] or [m, n, h, w]: outputs, inputs, and the window of a convolution.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.layouts.low_rank import LoRAPair, flax_factors


class Factors(NamedTuple):
    """up @ down."""

    up: Float[np.ndarray, "m r"]
    down: Float[np.ndarray, "r n *window"]


class Dense(NamedTuple):
    """The change itself."""

    weight: Float[np.ndarray, "m n *window"]


class Kronecker(NamedTuple):
    """The Kronecker product of two matrices, of which the right one may have a window."""

    left: Float[np.ndarray, "p q"]
    right: Float[np.ndarray, "s t *window"]


Change = Factors | Dense | Kronecker


def weight_of(change: Change) -> Float[np.ndarray, "m n *window"]:
    """The change as one array, fp32."""
    if isinstance(change, Dense):
        return change.weight
    if isinstance(change, Factors):
        return (change.up @ _flat(change.down)).reshape(len(change.up), *change.down.shape[1:])
    return np.kron(_widened(change.left, change.right.ndim), change.right)


def is_smaller(rank: int, shape: tuple[int, ...]) -> bool:
    """Whether factors of this rank have fewer numbers than a dense change of this shape."""
    outputs, inputs = shape[0], prod(shape[1:])
    return rank * (outputs + inputs) < outputs * inputs


def hadamard(one: Factors, other: Factors) -> Change:
    """The product entry by entry: (A1 B1) * (A2 B2). Its rank is the product of the ranks.

    >>> ones = Factors(np.ones((4, 1)), np.ones((1, 3)))
    >>> weight_of(hadamard(ones, Factors(2 * ones.up, 3 * ones.down)))[0]
    array([6., 6., 6.])
    """
    shape = (len(one.up), *one.down.shape[1:])
    if one.down.shape[1:] != other.down.shape[1:] or len(other.up) != shape[0]:
        raise ValueError("the halves have other shapes")
    rank = one.up.shape[1] * other.up.shape[1]
    if not is_smaller(rank, shape):
        return Dense(weight_of(one) * weight_of(other))
    up = (one.up[:, :, None] * other.up[:, None, :]).reshape(shape[0], rank)
    return Factors(up, (one.down[:, None] * other.down[None, :]).reshape(rank, *shape[1:]))


def kronecker(left: Factors | Dense, right: Factors | Dense) -> Change:
    """The Kronecker product, as factors where these have fewer numbers. left has no window."""
    one, other = _thin(left), _thin(right)
    shape = tuple(a * b for a, b in zip(_shape(left), _shape(right), strict=False)) + _shape(right)[2:]
    if not is_smaller(one.up.shape[1] * other.up.shape[1], shape):
        return Kronecker(weight_of(left), weight_of(right))
    return Factors(np.kron(one.up, other.up), np.kron(_widened(one.down, other.down.ndim), other.down))


def add(one: Change, other: Change) -> Change:
    """The sum, as factors if both are."""
    if isinstance(one, Factors) and isinstance(other, Factors):
        return Factors(np.concatenate([one.up, other.up], axis=1), np.concatenate([one.down, other.down]))
    return Dense(weight_of(one) + weight_of(other))


def exact_pair(change: Change, scale: float) -> LoRAPair:
    """The pair whose product is the change times `scale`. One side is the identity if the change is not in factors."""
    if isinstance(change, Factors):
        return _pair(change.up, change.down, scale)
    weight = weight_of(change)
    kernel = as_kernel(weight) * np.float32(scale)
    inputs, outputs = kernel.shape
    if outputs <= inputs:
        return LoRAPair(np.ascontiguousarray(kernel), identity(outputs))
    return LoRAPair(identity(inputs), np.ascontiguousarray(kernel))


def as_kernel(weight: Float[np.ndarray, "m n *window"]) -> Float[np.ndarray, "k m"]:
    """A weight as the matrix of a Flax kernel; a convolution's [h, w, n, m] counts as [h * w * n, m]."""
    if weight.ndim == 2:
        return weight.T
    return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))


@lru_cache(maxsize=64)
def identity(size: int) -> np.ndarray:
    """The identity matrix, fp32. All layers share one for each size."""
    eye = np.eye(size, dtype=np.float32)
    eye.flags.writeable = False
    return eye


def _pair(up: np.ndarray, down: np.ndarray, scale: float) -> LoRAPair:
    a, b = flax_factors(down, up)
    return LoRAPair(np.ascontiguousarray(a) * np.float32(scale), np.ascontiguousarray(b))


def _shape(change: Factors | Dense) -> tuple[int, ...]:
    return change.weight.shape if isinstance(change, Dense) else (len(change.up), *change.down.shape[1:])


def _thin(change: Factors | Dense) -> Factors:
    """Factors of the change; for a dense one, one of them is the identity."""
    if isinstance(change, Factors):
        return change
    weight = change.weight
    if len(weight) <= prod(weight.shape[1:]) or weight.ndim > 2:
        return Factors(identity(len(weight)), weight)
    return Factors(weight, identity(weight.shape[1]))


def _flat(down: np.ndarray) -> np.ndarray:
    return down.reshape(len(down), -1)


def _widened(matrix: np.ndarray, axes: int) -> np.ndarray:
    return matrix.reshape(*matrix.shape, *(1,) * (axes - 2))
