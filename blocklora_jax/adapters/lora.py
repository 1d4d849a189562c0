"""Low-rank pairs of all layers: their masks, their initial values, and how they are kept within the masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.layouts.low_rank import KernelShapes, LoRAPair, LoRATree


def block_masks(info: AdapterInfo, shapes: KernelShapes, basis: Float[np.ndarray, "d d"] | None = None) -> LoRATree:
    """Masks M_A [n, 1] and M_B [1, m] of 0.0 and 1.0 for every layer of `shapes`.

    With a `basis`, whose columns are directions, M_A holds the owned directions as columns [n, s]. A block that has
    fewer directions than the largest one gets columns of zeros.

    Source: blockwise parameterization of BlockLoRA (arXiv 2503.08575): dW = (alpha/r) (M_B . B)(M_A . A).
    """

    def mask(component: str, path: str, shape: tuple[int, int]) -> LoRAPair:
        if basis is not None and info.partition is not None:
            owned = info.partition.directions(f"{component}/{path}", len(basis), info.slots)
            # At least two columns, because one column means a mask of entries.
            most = max(2, -(-len(basis) // info.partition.num_blocks) * len(info.slots))
            columns = np.pad(basis[:, owned], ((0, 0), (0, most - len(owned))))
            return LoRAPair(columns.astype(np.float32), np.ones((1, shape[1]), np.float32))
        rows, columns = info.support(component, path, shape)
        m_a, m_b = np.zeros((shape[0], 1), np.float32), np.zeros((1, shape[1]), np.float32)
        m_a[rows], m_b[:, columns] = 1.0, 1.0
        return LoRAPair(m_a, m_b)

    return {c: {path: mask(c, path, shape) for path, shape in layers.items()} for c, layers in shapes.items()}


def init_lora(key: PRNGKeyArray, shapes: KernelShapes, masks: LoRATree, rank: int) -> LoRATree:
    """New pairs: A is uniform in +-1/sqrt(owned inputs), and B is zero, so that a new adapter changes exactly nothing.

    If the mask holds directions [n, s], A has a row for each direction: [s, rank].

    Source: PEFT's default (Kaiming uniform with a = sqrt 5). The fan-in is the number of owned inputs.
    """

    def pair(component: str, path: str, index: int) -> LoRAPair:
        n, m = shapes[component][path]
        mask = masks[component][path].lora_A
        in_basis = mask.shape[1] > 1
        bound = 1.0 / np.sqrt(np.any(mask, axis=0).sum() if in_basis else mask.sum())
        rows = mask.shape[1] if in_basis else n
        a = jax.random.uniform(jax.random.fold_in(key, index), (rows, rank), minval=-bound, maxval=bound)
        return LoRAPair(a if in_basis else a * mask, jnp.zeros((rank, m)))

    names = sorted((component, path) for component, layers in shapes.items() for path in layers)
    tree: LoRATree = {component: {} for component in shapes}
    for index, (component, path) in enumerate(names):
        tree[component][path] = pair(component, path, index)
    return tree


def apply_masks(lora: LoRATree, masks: LoRATree) -> LoRATree:
    """`lora` restricted to the owned blocks: zero outside them, or a combination of the owned directions.

    Gradients are restricted in the same way.
    """

    def masked(pair: LoRAPair, mask: LoRAPair) -> LoRAPair:
        directions = mask.lora_A.shape[1] > 1
        a = jnp.matmul(mask.lora_A, pair.lora_A, precision="highest") if directions else pair.lora_A * mask.lora_A
        return LoRAPair(a, pair.lora_B * mask.lora_B)

    return jax.tree.map(masked, lora, masks, is_leaf=lambda x: isinstance(x, LoRAPair))
