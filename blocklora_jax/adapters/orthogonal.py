"""Down projections that are not trained: disjoint rows of an orthonormal basis, which is the same for all concepts."""

from __future__ import annotations

import hashlib
from math import sqrt

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import KernelShapes, LoRAPair, LoRATree

# The mean length of a row of A in `init_lora`: n entries uniform in +-1/sqrt(n), each of variance 1/(3n).
# So |A x| is as large as there, and a learning rate of B has the same effect at the first steps.
ROW_LENGTH = 1 / sqrt(3)


def basis_rows(seed: int, path: str, n: int, first: int, count: int) -> Float[np.ndarray, "n count"]:
    """Basis vectors `first`, …, `first + count - 1` of the layer `path` ("unet/…/to_k"): fp64 columns of unit length.

    The basis is a random rotation of the layer's n inputs, a function of (seed, path, n) alone: a vector of it does not
    depend, beyond rounding, on how many are asked for.

    Raises: ValueError if the basis has fewer vectors.
    """
    if first < 0 or first + count > n:
        raise ValueError(f"a basis of {n} inputs has no vectors {first} to {first + count - 1}")
    # Vector by vector, so that QR of the first ones gives the first ones of the whole basis.
    columns = _normal_draws(seed, path, (first + count, n)).T
    q, r = np.linalg.qr(columns)
    # The signs are LAPACK's choice otherwise.
    return (q * np.sign(np.diag(r))[None, :])[:, first:]


def init_orthogonal(seed: int, shapes: KernelShapes, slot: int, rank: int) -> LoRATree:
    """New pairs whose A are vectors slot * rank, … of each layer's basis, `ROW_LENGTH` long, and whose B are zero.

    Two slots have lora_A^T lora_A' = 0 in every layer, hence dW dW'^T = 0 whatever their B become.

    Raises: UserError if a layer's basis has no such vectors.

    Source: Orthogonal Adaptation (arXiv 2312.02432), which freezes A to a random choice of such rows. Here the slots
    choose them, so that no two concepts have the same.
    """
    sets = count_sets(shapes, rank)
    if not 0 <= slot < sets:
        raise UserError(f"--slot {slot} must lie in 0..{sets - 1} with --down orthogonal: {_narrowest(shapes, rank)}")

    def pair(path: str, n: int, m: int) -> LoRAPair:
        a = ROW_LENGTH * basis_rows(seed, path, n, slot * rank, rank)
        return LoRAPair(jnp.asarray(a, jnp.float32), jnp.zeros((rank, m)))

    return {
        component: {path: pair(f"{component}/{path}", *shape) for path, shape in layers.items()}
        for component, layers in shapes.items()
    }


def count_sets(shapes: KernelShapes, rank: int) -> int:
    """How many slots there are: disjoint sets of `rank` rows that every layer's basis has.

    Raises: UserError if a layer has fewer inputs than `rank`.
    """
    sets = min(n for layers in shapes.values() for n, _ in layers.values()) // rank
    if not sets:
        raise UserError(f"--down orthogonal has no rows to give: {_narrowest(shapes, rank)}")
    return sets


def _narrowest(shapes: KernelShapes, rank: int) -> str:
    layers = {f"{component}/{path}": shape[0] for component, paths in shapes.items() for path, shape in paths.items()}
    path = min(layers, key=lambda name: layers[name])
    n = layers[path]
    return f"layer {path} has {n} inputs, {n // rank} sets of --rank {rank} rows; lower --rank, or adapt wider --layers"


def _normal_draws(seed: int, path: str, shape: tuple[int, int]) -> Float[np.ndarray, "count n"]:
    digest = hashlib.sha256(f"{seed}/{path}/basis".encode()).digest()
    # Philox and Box-Muller are specified; NumPy's own normal draws may change, and files made years apart must fit.
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw((shape[0] * shape[1], 2))
    u, v = (((raw >> np.uint64(11)) + 0.5) / 2.0**53).T
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(shape)
