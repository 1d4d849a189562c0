"""The adapter pytree: low-rank pairs, their masks, concept tokens, and what a merge must know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from blocklora_jax.adapters.partition import Partition, Support, full_support
from blocklora_jax.random_prompts import Kind

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


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


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """What is known of an adapter besides its arrays; hashable, so that it is static under jit.

    name: the concept's name; its token is `<name>`. class_noun: "man". kind: says where in a prompt it is called.
    trigger: a prompt fragment that calls the concept ("<ada> woman").
    base_name, base_digest: the model it was trained on (see `checkpoints.digest`).
    base_family: "sd1", "sd2" or "sdxl": how PyTorch software names and shapes that model's layers; "" if not known.
    origin: "" for our own, else the layout of the program that it comes from, "diffusers" or "kohya".
    partition: None for an ordinary, unblocked adapter. slots: the blocks' owners, within 0..K-1.
    rank, alpha: the pair is scaled by alpha / rank.
    training: the training configuration as JSON text.
    """

    name: str
    class_noun: str
    trigger: str
    rank: int
    alpha: float
    kind: Kind = "object"
    base_name: str = ""
    base_digest: str = ""
    base_family: str = "sd1"
    origin: str = ""
    partition: Partition | None = None
    slots: tuple[int, ...] = ()
    training: str = "{}"

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return {**asdict(self), "partition": self.partition and self.partition.to_json()}

    def support(self, component: str, path: str, shape: tuple[int, int]) -> Support:
        """The rows and columns of the layer's kernel [n, m] that the adapter owns."""
        if self.partition is None:
            return full_support(shape)
        return self.partition.support(f"{component}/{path}", shape, self.slots)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One concept: its LoRA pairs (full size, zero outside the owned blocks), its tokens, and its description.

    lora: fp32 pairs by component and layer path. tokens: {"<name>": fp32 [vectors, d]}, and in tokens_2 as many vectors
    for the second text encoder of SDXL, under the same names. NumPy or JAX arrays.
    """

    lora: LoRATree
    # Not Float[Array, …]: jax.tree rebuilds adapters with anything for leaves.
    tokens: Mapping[str, Any]
    tokens_2: Mapping[str, Any] = field(default_factory=dict)
    info: AdapterInfo = field(metadata={"static": True})

    @property
    def name(self) -> str:
        """The concept's name."""
        return self.info.name

    def shapes(self) -> KernelShapes:
        """The kernel shape (n, m) of every adapted layer."""
        return {
            component: {path: (pair.lora_A.shape[0], pair.lora_B.shape[1]) for path, pair in layers.items()}
            for component, layers in self.lora.items()
        }

    def masks(self) -> LoRATree:
        """Ones where the adapter may write, zeros elsewhere; the structure of `lora`, broadcastable to it."""
        return block_masks(self.info, self.shapes())

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> Adapter:
        """Read an `adapter.safetensors`, or a LoRA of another program.

        verify: whether the digest in the file's header must hold; False for a file that was edited on purpose.
        Raises UserError if the file is not one, is damaged, or does not fit its header.
        """
        from blocklora_jax.adapters.file import load_adapter

        return load_adapter(path, verify)

    def save(self, path: str | Path, dtype: str = "float32") -> None:
        """Write an `adapter.safetensors` (owned blocks only; dtype "float32" or "bfloat16")."""
        from blocklora_jax.adapters.file import save_adapter

        save_adapter(self, path, dtype)


def block_masks(info: AdapterInfo, shapes: KernelShapes, basis: Float[np.ndarray, "d d"] | None = None) -> LoRATree:
    """Masks M_A [n, 1] and M_B [1, m] of 0.0 and 1.0 for every layer of `shapes`.

    With a `basis`, whose columns are directions, M_A are the owned ones as columns [n, s]; a block that has one fewer than
    others has a column of zeros.

    Source: method, "Blockwise parameterization": dW = (alpha/r) (M_B . B)(M_A . A).
    """

    def mask(component: str, path: str, shape: tuple[int, int]) -> LoRAPair:
        if basis is not None and info.partition is not None:
            owned = info.partition.directions(f"{component}/{path}", len(basis), info.slots)
            # Two at least: one column is a mask of entries.
            most = max(2, -(-len(basis) // info.partition.num_blocks) * len(info.slots))
            columns = np.pad(basis[:, owned], ((0, 0), (0, most - len(owned))))
            return LoRAPair(columns.astype(np.float32), np.ones((1, shape[1]), np.float32))
        rows, columns = info.support(component, path, shape)
        m_a, m_b = np.zeros((shape[0], 1), np.float32), np.zeros((1, shape[1]), np.float32)
        m_a[rows], m_b[:, columns] = 1.0, 1.0
        return LoRAPair(m_a, m_b)

    return {c: {path: mask(c, path, shape) for path, shape in layers.items()} for c, layers in shapes.items()}


def init_lora(key: PRNGKeyArray, shapes: KernelShapes, masks: LoRATree, rank: int) -> LoRATree:
    """New pairs: A uniform in +-1/sqrt(owned inputs), B zero, so that a new adapter changes nothing, exactly.

    Where the mask holds directions [n, s], A has a row for each of those: [s, rank].

    Source: peft's default (Kaiming uniform with a = sqrt 5), with the fan-in that the mask leaves.
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
    """`lora` within the owned blocks: zero outside them, or the owned directions' combination; gradients stay inside too."""

    def masked(pair: LoRAPair, mask: LoRAPair) -> LoRAPair:
        directions = mask.lora_A.shape[1] > 1
        a = jnp.matmul(mask.lora_A, pair.lora_A, precision="highest") if directions else pair.lora_A * mask.lora_A
        return LoRAPair(a, pair.lora_B * mask.lora_B)

    return jax.tree.map(masked, lora, masks, is_leaf=lambda x: isinstance(x, LoRAPair))
