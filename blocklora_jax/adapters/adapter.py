"""The adapter pytree: low-rank pairs, concept tokens, and a description that merging needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from blocklora_jax.adapters.file import AdapterContents, read_adapter, write_adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import block_masks
from blocklora_jax.external_lora.base_weights import BaseModel
from blocklora_jax.layouts.low_rank import KernelShapes, LoRATree, kernel_shapes


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, repr=False)
class Adapter:
    """One concept: its LoRA pairs, its tokens, and its description.

    lora: fp32 pairs by component and layer path. They have full size and are zero outside the owned blocks.
    tokens: {"<name>": fp32 [vectors, d]}.
    tokens_2: as many vectors for SDXL's second text encoder, under the same names.
    vectors: changes of norms and biases, fp32 [c] by path ("unet/…/norm1/scale"). Only adapters of other programs have
        them. They are added as they are, without the scale of the pairs.

    The arrays are NumPy's or JAX's.

    >>> from tempfile import mkdtemp
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> path = Path(mkdtemp()) / "ada.safetensors"
    >>> random_adapter("ada", tiny_params(), slots=(2,)).save(path)
    >>> adapter = Adapter.load(path)
    >>> adapter.name, adapter.info.slots, list(adapter.tokens)
    ('ada', (2,), ['<ada>'])
    """

    lora: LoRATree
    # Not Float[Array, …]: jax.tree rebuilds adapters with leaves of any type.
    tokens: Mapping[str, Any]
    tokens_2: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Any] = field(default_factory=dict)
    info: AdapterInfo = field(metadata={"static": True})

    @property
    def name(self) -> str:
        """The concept's name."""
        return self.info.name

    def __repr__(self) -> str:
        # Reads only names: under jit, and while a tree is rebuilt, leaves may have any type.
        layers = sum(len(paths) for paths in self.lora.values())
        tokens = f", called by {' '.join(self.tokens)}" if self.tokens else ""
        return f"Adapter({self.name!r}, {self.info.kind}, {self.info.place()}, {layers} layers{tokens})"

    def shapes(self) -> KernelShapes:
        """The kernel shape (n, m) of every adapted layer."""
        return kernel_shapes(self.lora)

    def masks(self) -> LoRATree:
        """Ones where the adapter may differ from zero, zeros elsewhere. Has the structure of `lora`, and broadcasts."""
        return block_masks(self.info, self.shapes())

    @classmethod
    def load(
        cls, path: str | Path, verify: bool = True, *, base: BaseModel | None = None, max_rank: int | None = None
    ) -> Adapter:
        """Read an `adapter.safetensors`, or an adapter of another program.

        verify: whether the digest in the file's header must match; False for a file that was edited on purpose.
        base, max_rank: only for files of other programs, see `read_external_lora`. DoRA, OFT and others change a model
            by amounts that depend on it. max_rank bounds the rank of changes that are no product of small factors.

        Raises: UserError if the file is of another kind, is damaged, or does not fit its header.
        """
        return cls(**read_adapter(path, verify, base=base, max_rank=max_rank)._asdict())

    def save(self, path: str | Path, dtype: str = "float32") -> None:
        """Write an `adapter.safetensors` (owned blocks only; dtype "float32" or "bfloat16")."""
        write_adapter(AdapterContents(self.lora, self.tokens, self.tokens_2, self.vectors, self.info), path, dtype)
