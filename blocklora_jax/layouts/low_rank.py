"""Low-rank changes of layers: pairs, trees of pairs, and their conversion to and from PyTorch's factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float


class LoRAPair(NamedTuple):
    """One layer's low-rank pair: the change of its Flax kernel [n, m] is `scale * lora_A @ lora_B`.

    A convolution's kernel [h, w, n, m] counts as [h * w * n, m].

    Source: LoRA (arXiv 2106.09685); PyTorch's lora_A.weight and lora_B.weight are the transposes.
    """

    lora_A: Float[Array | np.ndarray, "n r"]
    lora_B: Float[Array | np.ndarray, "r m"]


# {"unet": {"down_blocks_0/…/to_k": LoRAPair}, "text_encoder": {…}}
LoRATree = dict[str, dict[str, LoRAPair]]
# The same keys; kernel shapes (n, m).
KernelShapes = dict[str, dict[str, tuple[int, int]]]
# A `LoRATree` or the same with plain tuples, for writing PyTorch's files.
LowRank = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]


def kernel_shapes(lora: LoRATree) -> KernelShapes:
    """The kernel shape (n, m) of every layer."""
    return {
        component: {path: (pair.lora_A.shape[0], pair.lora_B.shape[1]) for path, pair in layers.items()}
        for component, layers in lora.items()
    }


def one_rank(lowrank: LowRank) -> tuple[dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], int]:
    """All pairs padded with zeros to the largest rank, and that rank."""
    rank = max((a.shape[1] for layers in lowrank.values() for a, _ in layers.values()), default=0)
    padded = {
        component: {layer: (_pad(a, rank, axis=1), _pad(b, rank, axis=0)) for layer, (a, b) in layers.items()}
        for component, layers in lowrank.items()
    }
    return padded, rank


def torch_factors(
    a: Float[np.ndarray, "n r"], b: Float[np.ndarray, "r m"], size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """PyTorch's weights of the down projection, [r, n] or [r, n, size, size], and of the up projection, [m, r]."""
    if size is None:
        return a.T, b.T
    height_width_inputs = a.reshape(size, size, -1, a.shape[1])
    return height_width_inputs.transpose(3, 2, 0, 1), b.T[:, :, None, None]


def flax_factors(
    down: Float[np.ndarray, "r n *window"], up: Float[np.ndarray, "m r *one"]
) -> tuple[Float[np.ndarray, "k r"], Float[np.ndarray, "r m"]]:
    """The inverse: A [n, r] or [size * size * n, r], B [r, m]."""
    if down.ndim == 2:
        return down.T, up.reshape(up.shape[:2]).T
    return down.transpose(2, 3, 1, 0).reshape(-1, down.shape[0]), up.reshape(up.shape[:2]).T


def _pad(x: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return np.pad(x, [(0, rank - size if i == axis else 0) for i, size in enumerate(x.shape)])
