"""Fixed down projections: disjoint rows of an orthonormal basis that is the same for all concepts."""

from __future__ import annotations

import hashlib
from math import sqrt

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import KernelShapes, LoRAPair, LoRATree

# The length of a row of A in `init_lora`: n entries uniform in +-1/sqrt(n), each of variance 1/(3n). So |A x| has the
# same size as there, and a learning rate for B has the same effect in the first steps.
ROW_LENGTH = 1 / sqrt(3)


def basis_rows(seed: int, path: str, n: int, first: int, count: int) -> Float[np.ndarray, "n count"]:
    """Basis vectors `first`, …, `first + count - 1` of the layer `path` ("unet/…/to_k"): fp64 columns of unit length.

    The basis is a random rotation of the layer's n inputs, and depends only on (seed, path, n). Up to rounding, a
    vector does not depend on how many vectors are computed.

    Raises: ValueError if the basis has fewer vectors.
    """
    if first < 0 or first + count > n:
        raise ValueError(f"a basis of {n} inputs has no vectors {first} to {first + count - 1}")
    # Numbers are drawn vector by vector, so that QR of the first vectors gives the first vectors of the whole basis.
    columns = _normal_draws(seed, path, (first + count, n)).T
    q, r = np.linalg.qr(columns)
    # Otherwise LAPACK chooses the signs.
    return (q * np.sign(np.diag(r))[None, :])[:, first:]


def init_orthogonal(seed: int, shapes: KernelShapes, slot: int, rank: int) -> LoRATree:
    """New pairs. The columns of A are `rank` vectors of each layer's basis from slot * rank on, and B is zero.

    The columns have the length `ROW_LENGTH`. Two slots have lora_A^T lora_A' = 0 in every layer. Hence dW dW'^T = 0,
    whatever values B gets.

    Raises: UserError if a layer's basis has too few vectors.

    Source: Orthogonal Adaptation (arXiv 2312.02432), which freezes A to a random choice of such rows. Here the slot
    determines the rows, so that no two concepts share one.
    """
    check_slot(shapes, slot, rank)

    def pair(path: str, n: int, m: int) -> LoRAPair:
        a = ROW_LENGTH * basis_rows(seed, path, n, slot * rank, rank)
        return LoRAPair(jnp.asarray(a, jnp.float32), jnp.zeros((rank, m)))

    return {
        component: {path: pair(f"{component}/{path}", *shape) for path, shape in layers.items()}
        for component, layers in shapes.items()
    }


def check_slot(shapes: KernelShapes, slot: int, rank: int) -> None:
    """Raises: UserError if the basis of a layer has no `rank` vectors for `slot`."""
    sets = count_sets(shapes, rank)
    if not 0 <= slot < sets:
        raise UserError(f"--slot {slot} must lie in 0..{sets - 1} with --down orthogonal: {_narrowest(shapes, rank)}")


def count_sets(shapes: KernelShapes, rank: int) -> int:
    """The number of slots: how many disjoint sets of `rank` rows every layer's basis has.

    Raises: UserError if a layer has fewer inputs than `rank`.
    """
    sets = min(n for layers in shapes.values() for n, _ in layers.values()) // rank
    if not sets:
        raise UserError(f"--down orthogonal has too few rows for one slot: {_narrowest(shapes, rank)}")
    return sets


def _narrowest(shapes: KernelShapes, rank: int) -> str:
    layers = {f"{component}/{path}": shape[0] for component, paths in shapes.items() for path, shape in paths.items()}
    path = min(layers, key=lambda name: layers[name])
    n = layers[path]
    return f"layer {path} has {n} inputs, {n // rank} sets of --rank {rank} rows; lower --rank, or adapt wider --layers"


def _normal_draws(seed: int, path: str, shape: tuple[int, int]) -> Float[np.ndarray, "count n"]:
    digest = hashlib.sha256(f"{seed}/{path}/basis".encode()).digest()
    # Philox and Box-Muller are specified. NumPy's own normal draws may change, but files made years apart must agree.
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw((shape[0] * shape[1], 2))
    u, v = (((raw >> np.uint64(11)) + 0.5) / 2.0**53).T
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(shape)
