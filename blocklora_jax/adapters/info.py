"""The description of an adapter: everything besides its arrays."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from blocklora_jax.adapters.partition import Partition, Support, full_support
from blocklora_jax.layouts.families.table import DEFAULT_FAMILY
from blocklora_jax.prompts.shares import Kind


@dataclass(frozen=True, kw_only=True, repr=False)
class AdapterInfo:
    """The description of an adapter: everything besides its arrays. It is hashable, so that it is static under jit.

    name: the concept's name; its token is `<name>`.
    class_noun: the word for the concept's class, such as "man".
    kind: what sort of concept it is. It decides the trigger's place in prompts.
    trigger: the words in a prompt that call the concept ("<ada> woman").
    base_name, base_digest: the model that it was trained on (see `checkpoints.digest`).
    base_family: a key of `layouts.families.table.FAMILIES`, which determines how other programs name and shape that
        model's layers; "" if it is not known.
    origin: "" for our own adapters, else the layout of the file that it was read from: "diffusers" or "kohya".
    partition: None for an adapter without blocks.
    slots: the slots that it owns, within 0..K-1.
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
    base_family: str = DEFAULT_FAMILY
    origin: str = ""
    partition: Partition | None = None
    slots: tuple[int, ...] = ()
    training: str = "{}"

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def __repr__(self) -> str:
        return f"AdapterInfo({self.name!r}, {self.kind}, {self.base_family or 'any model'}, {self.place()})"

    def place(self) -> str:
        """Rank and slots in words: "rank 16, slot 3 of 16"."""
        if self.partition is None:
            return f"rank {self.rank}, no blocks"
        slots = ", ".join(map(str, self.slots[:8])) + (", …" if len(self.slots) > 8 else "")
        return f"rank {self.rank}, slot{'s' * (len(self.slots) > 1)} {slots} of {self.partition.num_blocks}"

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return {**asdict(self), "partition": self.partition and self.partition.to_json()}

    def support(self, component: str, path: str, shape: tuple[int, int]) -> Support:
        """The rows and columns of the layer's kernel [n, m] that the adapter owns."""
        if self.partition is None:
            return full_support(shape)
        return self.partition.support(f"{component}/{path}", shape, self.slots)
