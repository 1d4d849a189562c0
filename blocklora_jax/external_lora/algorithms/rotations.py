"""Rotations from skew-symmetric matrices, and their product with a base's weight.

Source: OFT (arXiv 2306.07280), its Cayley transform.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def cayley(skew: Float[np.ndarray, "*k b b"]) -> Float[np.ndarray, "*k b b"]:
    """(I + Q) (I - Q)^-1, in fp64."""
    eye = np.eye(skew.shape[-1])
    # X (I - Q) = I + Q is solved by its transpose.
    solved = np.linalg.solve((eye - skew).swapaxes(-1, -2), (eye + skew).swapaxes(-1, -2))
    return solved.swapaxes(-1, -2)


def cayley_series(skew: Float[np.ndarray, "*k b b"], terms: int) -> Float[np.ndarray, "*k b b"]:
    """PEFT's series for the Cayley transform: I + 2 Q + 2 Q^2 + … + Q^(terms - 1), the last once."""
    # With three terms PEFT adds four.
    terms = 4 if terms == 3 else terms
    total, power = np.broadcast_to(np.eye(skew.shape[-1]), skew.shape).copy(), skew
    for exponent in range(1, terms):
        total += power * (2.0 if exponent < terms - 1 or terms == 2 else 1.0)
        power = power @ skew
    return total


def constrained(skew: Float[np.ndarray, "*k b b"], most: float) -> Float[np.ndarray, "*k b b"]:
    """Shortened to the Frobenius norm `most`; 0: not at all."""
    norm = float(np.linalg.norm(skew)) + 1e-8
    return skew * (most / norm) if 0 < most < norm else skew


def skew_of(upper: Float[np.ndarray, "k e"], size: int) -> Float[np.ndarray, "k b b"]:
    """Skew-symmetric matrices whose upper triangles, without the diagonal, are the rows of `upper`."""
    skew = np.zeros((len(upper), size, size))
    rows, columns = np.triu_indices(size, 1)
    skew[:, rows, columns] = upper
    return skew - skew.swapaxes(1, 2)


def rotated(blocks: Float[np.ndarray, "k b b"], weight: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    """R^T W for the block-diagonal R: the rows of the weight are mixed within each block."""
    count, size, _ = blocks.shape
    mixed = np.einsum("knm,knc->kmc", blocks, np.asarray(weight, np.float64).reshape(count, size, -1))
    return mixed.reshape(weight.shape)
