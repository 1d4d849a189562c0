"""The adapter pytree: low-rank pairs, concept tokens, and a description that merging needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from blocklora_jax.adapters.file import AdapterContents, read_adapter, write_adapter
from blocklora_jax.adapters.find import find_adapter, named_as
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
        cls,
        path: str | Path,
        verify: bool = True,
        *,
        base: BaseModel | None = None,
        max_rank: int | None = None,
        filename: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Adapter:
        """Read an `adapter.safetensors`, or a LoRA of another program, from this machine or from the hub.

        Args:
            path: a file, a folder with an adapter in it, a repository on the Hugging Face hub ("owner/name", or
                "hub:owner/name"), or a file in one ("hub:owner/name@revision/folder/file.safetensors"). A file or
                folder here wins.
            verify: whether the digest in the file's header must match; False for a file that was edited on purpose.
            base, max_rank: only for files of other programs, see `read_external_lora`. DoRA, OFT and others change a
                model by amounts that depend on it. max_rank bounds the rank of changes that are no product of small
                factors.
            filename, subfolder: which file of the folder or repository, if it has several adapters.
            revision: branch, tag or commit of the repository.
            token: of the hub. Default: HF_TOKEN, or that of `hf auth login`.

        Raises: UserError if there is no such file or repository, or if the file is of another kind, is damaged, or does
            not fit its header.
        """
        file = find_adapter(path, filename, subfolder, revision, token)
        with named_as(path, file):
            return cls(**read_adapter(file, verify, base=base, max_rank=max_rank)._asdict())

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        license: str | None = None,
        replace: bool = False,
        pictures: Sequence[str | Path] = (),
        prompts: Sequence[str] | None = None,
        base_model: str | None = None,
        family: str | None = None,
        message: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Push the adapter to a repository on the Hugging Face hub, which is made if it is missing. Gives its address.

        The repository gets `adapter.safetensors`, a LoRA and tokens for diffusers, ComfyUI and A1111, the pictures, and
        a model card. `Adapter.load(repository)` reads it.

        Args:
            repository: "owner/name".
            private: whether only its owner may see a new repository.
            license: the hub's word for it, such as "apache-2.0". None: the one that the repository states already.
            replace: whether another adapter there may be replaced. A new version of the same one needs no permission.
                The repository's history keeps the old files.
            pictures: files of sample pictures. Photos are encoded anew, without their metadata.
            prompts: to try on the page. None: one with the trigger.
            base_model: hub id of the base. None: the one that the adapter was trained on, if that is on the hub.
            family: "sd1", "sd2" or "sdxl", if the adapter does not state it (LoRAs of other programs).
            message: of the commit.
            token: that may write. Default: HF_TOKEN, or that of `hf auth login`.

        Raises: UserError without a token, without the hub, for a repository that holds something else, and for a
            license, picture or base that cannot be used. Then nothing is written.
        """
        from blocklora_jax.adapters.sharing.push import PushSettings, push

        texts = None if prompts is None else tuple(prompts)
        settings = PushSettings(private, license, replace, tuple(pictures), texts, base_model, family, message, token)
        return push(self, repository, settings)

    def save(self, path: str | Path, dtype: str = "float32") -> None:
        """Write an `adapter.safetensors` (owned blocks only; dtype "float32" or "bfloat16")."""
        write_adapter(AdapterContents(self.lora, self.tokens, self.tokens_2, self.vectors, self.info), path, dtype)
