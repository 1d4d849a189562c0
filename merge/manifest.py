"""The manifest `blocklora.json` in a merged model's folder: its concepts, so that one can be removed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.header import MOST_NUMBERS, InfoHeader
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.checkpoints.manifest import read_manifest
from blocklora_jax.checks.renamed import old_names
from blocklora_jax.errors import UserError
from blocklora_jax.io.dtype_names import ModelDtype
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.outputs import MANIFEST
from blocklora_jax.io.schema import Schema, Sha256, Shape, Text, Token, validated
from blocklora_jax.io.tensor_digest import tensors_digest
from blocklora_jax.layouts.low_rank import LoRAPair

VERSION = 1
SUM = "sum"
_AGAIN = "merge again from the adapters"
_MOST_RANK = 128
_Layer = Annotated[Text, Field(max_length=400)]
_Weight = Annotated[float, Field(ge=-1e6, le=1e6)]


@dataclass(frozen=True, kw_only=True)
class MergeManifest:
    """The record of a merge.

    base_name, base_digest: the base model (see `checkpoints.digest`).
    dtype: type of the folder's weights.
    adapters: the merged adapters `without_values`, in the order in which their tokens were appended.
    weights: one for each adapter.
    method, settings: the merge method and its settings. Files leave them out for the sum.
    digests: `pairs_digest` of each adapter. Files leave out those that are "". Empty if none is known.
    block_weights: for each adapter with a digest, the factors of layers other than 1 that it was multiplied by before.
        Files leave out those that are empty.
    """

    base_name: str
    base_digest: str
    dtype: str
    adapters: tuple[Adapter, ...]
    weights: tuple[float, ...]
    method: str = SUM
    settings: Mapping[str, Any] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    block_weights: tuple[Mapping[str, float], ...] = ()

    def index_of(self, name: str) -> int:
        """The index of the concept `name`. Raises UserError if there is not exactly one of that name."""
        indices = [i for i, adapter in enumerate(self.adapters) if adapter.name == name]
        if len(indices) != 1:
            names = ", ".join(adapter.name for adapter in self.adapters)
            count = "is no concept" if not indices else "are several concepts"
            raise UserError(f"there {count} {name!r} in it; it has {names}")
        return indices[0]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON."""
        digests = self.digests or ("",) * len(self.adapters)
        block_weights = self.block_weights or ({},) * len(self.adapters)
        concepts = [
            {**adapter.info.to_json(), "weight": weight, "tokens": _shapes(adapter.tokens), "shapes": adapter.shapes()}
            | ({"vectors": {path: len(vector) for path, vector in adapter.vectors.items()}} if adapter.vectors else {})
            | ({"pairs_digest": digest} if digest else {})
            | ({"block_weights": dict(factors)} if factors else {})
            for adapter, weight, digest, factors in zip(
                self.adapters, self.weights, digests, block_weights, strict=True
            )
        ]
        head = {name: getattr(self, name) for name in ("base_name", "base_digest", "dtype")}
        method = {} if self.method == SUM else {"method": self.method, "settings": dict(self.settings)}
        return {"blocklora_merge": VERSION, **head, **method, "concepts": concepts}


def without_values(adapter: Adapter) -> Adapter:
    """The adapter with zeros of the same shapes, which take no memory, and without its training settings."""
    lengths = {path: len(vector) for path, vector in adapter.vectors.items()}
    return _zero_adapter(replace(adapter.info, training="{}"), adapter.shapes(), _shapes(adapter.tokens), lengths)


def has_values(adapter: Adapter) -> bool:
    """False for what `without_values` gives: zeros that take no memory."""
    arrays = [x for layers in adapter.lora.values() for pair in layers.values() for x in pair]
    return not arrays or any(not isinstance(x, np.ndarray) or any(x.strides) for x in arrays)


def pairs_digest(adapter: Adapter) -> str:
    """Hex SHA-256 of an adapter's pairs, if it is cut in a basis: by it the adapter is known when it is taken out.

    "" for others, which are taken out without it.
    """
    if adapter.info.partition is None or not adapter.info.partition.basis:
        return ""
    return tensors_digest(
        {
            f"{component}/{layer}/{name}": np.asarray(array, np.float32)
            for component, layers in adapter.lora.items()
            for layer, pair in layers.items()
            for name, array in pair._asdict().items()
        }
    )


def read_merge_manifest(folder: str | Path, verify: bool = True) -> MergeManifest:
    """The manifest in `folder`. Raises UserError if there is none, or it cannot be read."""
    path = Path(folder).expanduser() / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} is not a merged model of `python -m merge … --save` (it has no {MANIFEST}): {_AGAIN}"
        )
    manifest = read_manifest(folder, verify)
    # In folders of version 0.1.0 the file has only this part.
    value = read_json(path) if manifest is None else manifest.get("merge")
    if value is None:
        raise UserError(f"{folder} was saved by this program, but nothing was merged into it: {_AGAIN}")
    version = value.get("blocklora_merge") if isinstance(value, dict) else None
    if version != VERSION:
        raise UserError(f"{path} has version {str(version)[:20]}; this program reads {VERSION}: update blocklora_jax")
    try:
        return validated(_ManifestJson, value, f"{path} lacks or misspells a field").to_manifest()
    except UserError as error:
        raise UserError(f"{error}: {_AGAIN}") from error


class _Concept(InfoHeader):
    """A concept in the manifest. tokens: the shapes [v, d] of the tokens' vectors."""

    training: Text
    weight: _Weight
    tokens: dict[Token, Shape]
    pairs_digest: Sha256 = ""
    block_weights: Annotated[dict[_Layer, _Weight], Field(max_length=1 << 16)] = {}


class _ManifestJson(Schema):
    """The manifest as JSON."""

    blocklora_merge: Literal[1]
    base_name: Text
    base_digest: Sha256
    dtype: ModelDtype
    method: Text = SUM
    settings: Annotated[dict[Text, bool | int | float | Text], Field(max_length=100)] = {}
    concepts: Annotated[list[_Concept], Field(max_length=1 << 16)]

    def to_manifest(self) -> MergeManifest:
        """The manifest. Raises UserError for slots outside the partition, and for too large layers."""
        for concept in self.concepts:
            sides = [side for layers in concept.shapes.values() for shape in layers.values() for side in shape]
            # Whole changes of another program's adapter have the rank of the layer. Here they take no memory.
            if sum(sides) * min(concept.rank, _MOST_RANK) > MOST_NUMBERS:
                raise UserError(f"{concept.name!r} has more numbers than any adapter has")
        return MergeManifest(
            base_name=self.base_name,
            base_digest=self.base_digest,
            dtype=self.dtype,
            adapters=tuple(
                _zero_adapter(c.to_info("{}"), c.kernel_shapes(), c.tokens, c.vectors) for c in self.concepts
            ),
            weights=tuple(concept.weight for concept in self.concepts),
            method=self.method,
            settings=self.settings,
            digests=tuple(concept.pairs_digest for concept in self.concepts),
            block_weights=tuple(concept.block_weights for concept in self.concepts),
        )


def _zero_adapter(
    info: AdapterInfo, shapes: Mapping[str, Any], tokens: Mapping[str, Any], lengths: Mapping[str, int]
) -> Adapter:
    lora = {
        component: {path: LoRAPair(_zeros((n, info.rank)), _zeros((info.rank, m))) for path, (n, m) in layers.items()}
        for component, layers in shapes.items()
    }
    return Adapter(
        lora=lora,
        tokens={token: _zeros(tuple(shape)) for token, shape in tokens.items()},
        vectors={path: _zeros((length,)) for path, length in lengths.items()},
        info=info,
    )


def _zeros(shape: Sequence[int]) -> np.ndarray:
    return np.broadcast_to(np.float32(0), tuple(shape))


def _shapes(tokens: Mapping[str, Any]) -> dict[str, list[int]]:
    return {token: list(np.shape(vectors)) for token, vectors in tokens.items()}


__getattr__ = old_names(
    __name__, {"MergeRecord": "MergeManifest", "outline": "without_values", "read_record": "read_merge_manifest"}
)
