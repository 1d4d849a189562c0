"""The JSON header of an adapter file, which is checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import MOST_BLOCKS, Assignment, Axis, Partition
from blocklora_jax.checks.names import plain_name
from blocklora_jax.io.schema import Schema, Sha256, Shape, Text, Token, Width, validated
from blocklora_jax.layouts.components import ADAPTED, Adapted
from blocklora_jax.layouts.families.table import DEFAULT_FAMILY, FamilyOrUnknown
from blocklora_jax.prompts.shares import Kind

FORMAT_VERSION = 1
# The largest count of numbers in all pairs at full size: 4 GB in fp32, more than any adapter has.
MOST_NUMBERS = 1 << 30
# The path of a norm's scale or of a bias in a whole model: "unet/…/norm1/scale".
VectorPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+){1,16}/(scale|bias)$", max_length=330)
]
_LayerPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+){0,15}$", max_length=300)]
_Count = Annotated[int, Field(ge=1, le=1024)]


class PartitionHeader(Schema):
    """A partition; see `Partition`."""

    num_blocks: Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
    axis: Axis
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
    basis: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{16})?$")] = ""
    assignment: Assignment = "layer"


class InfoHeader(Schema):
    """The fields of `AdapterInfo` without `training`, as in files. Fields with a default are missing in old files.

    shapes: of the kernels that pairs change. vectors: the lengths of changed norms and biases.
    """

    name: Text
    class_noun: Text
    trigger: Text
    rank: Annotated[int, Field(ge=1, le=1 << 16)]
    alpha: Annotated[float, Field(ge=-1e6, le=1e6)]
    kind: Kind = "object"
    base_name: Text = ""
    base_digest: Sha256 = ""
    base_family: FamilyOrUnknown = DEFAULT_FAMILY
    origin: Literal["", "diffusers", "kohya"] = ""
    partition: PartitionHeader | None
    slots: Annotated[list[Annotated[int, Field(ge=0, lt=MOST_BLOCKS)]], Field(max_length=MOST_BLOCKS)]
    shapes: Annotated[dict[Adapted, dict[_LayerPath, Shape]], Field(max_length=len(ADAPTED))]
    vectors: dict[VectorPath, Width] = {}

    def to_info(self, training: str) -> AdapterInfo:
        """The adapter's description.

        Raises UserError for an impossible partition, slots that the partition does not have, and an invalid name.
        """
        values = {name: getattr(self, name) for name in AdapterInfo.__dataclass_fields__ if name != "training"}
        partition = Partition(**dict(self.partition)) if self.partition else None
        slots = partition.check_slots(tuple(self.slots)) if partition else ()
        if not self.origin:  # LoRAs of other programs are named after their files.
            plain_name(self.name, "the adapter")
        return AdapterInfo(**values | {"partition": partition, "slots": slots, "training": training})

    def kernel_shapes(self) -> dict[str, dict[str, tuple[int, int]]]:
        """{component: {layer path: (n, m)}}."""
        return {part: {layer: (n, m) for layer, (n, m) in layers.items()} for part, layers in self.shapes.items()}


class AdapterHeader(InfoHeader):
    """The whole header. training: the settings of its training, of any form. tokens: the number of vectors of each."""

    format_version: Literal[1]
    training: dict[str, Any]
    tokens: dict[Token, _Count]
    tokens_2: dict[Token, _Count] = {}


def read_adapter_header(value: Mapping[str, Any], source: str) -> AdapterHeader:
    """The header of the file `source`. Raises UserError naming the fields that are missing, unknown, or wrong."""
    return validated(AdapterHeader, dict(value), f"{source}: the adapter's header lacks or misspells a field")
