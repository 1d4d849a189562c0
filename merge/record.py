"""`blocklora.json` in a merged model's folder: which concepts are in it, so that one can be taken out again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.adapters.lora import Adapter, AdapterInfo, LoRAPair
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_json

FILE, VERSION = "blocklora.json", 1


@dataclass(frozen=True, kw_only=True)
class MergeRecord:
    """What was merged into what.

    base_name, base_digest: the base model (see `checkpoints.digest`). dtype: precision of the folder's weights.
    adapters: outlines, in the order in which their tokens joined. weights: one for each.
    """

    base_name: str
    base_digest: str
    dtype: str
    adapters: tuple[Adapter, ...]
    weights: tuple[float, ...]

    def index_of(self, name: str) -> int:
        """Where the concept `name` is. Raises UserError if there is none of that name, or two."""
        found = [i for i, adapter in enumerate(self.adapters) if adapter.name == name]
        if len(found) != 1:
            names = ", ".join(adapter.name for adapter in self.adapters)
            raise UserError(f"there {'is no' if not found else 'are several'} concept {name!r} in it; it has {names}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        concepts = [
            {**adapter.info.to_json(), "weight": weight, "tokens": _shapes(adapter.tokens), "shapes": adapter.shapes()}
            for adapter, weight in zip(self.adapters, self.weights, strict=True)
        ]
        head = {name: getattr(self, name) for name in ("base_name", "base_digest", "dtype")}
        return {"blocklora_merge": VERSION, **head, "concepts": concepts}


def outline(adapter: Adapter) -> Adapter:
    """The adapter without its numbers: zeros of the same shapes that take no memory, and no training settings."""
    return _silent(replace(adapter.info, training="{}"), adapter.shapes(), _shapes(adapter.tokens))


def write_record(folder: str | Path, record: MergeRecord) -> None:
    """Write `record` into a merged model's folder."""
    write_json(Path(folder).expanduser() / FILE, record.to_json())


def read_record(folder: str | Path) -> MergeRecord:
    """The record in `folder`. Raises UserError if there is none, or it cannot be read."""
    path = Path(folder).expanduser() / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        version = value["blocklora_merge"]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is no merged model of `python -m merge … --save` (it has no {FILE}): merge again from the adapters"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path} ({error!r}): merge again from the adapters") from error
    if version != VERSION:
        raise UserError(f"{path} has version {version}; this one reads {VERSION}: update blocklora_jax")
    try:
        concepts = value["concepts"]
        return MergeRecord(
            adapters=tuple(_adapter(concept) for concept in concepts),
            weights=tuple(float(concept["weight"]) for concept in concepts),
            **{name: value[name] for name in ("base_name", "base_digest", "dtype")},
        )
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{path} lacks or misspells a field ({error!r}): merge again from the adapters") from error


def _adapter(concept: Mapping[str, Any]) -> Adapter:
    fields = {name: concept[name] for name in AdapterInfo.__dataclass_fields__}
    partition = Partition(**fields["partition"]) if fields["partition"] else None
    info = AdapterInfo(**fields | {"partition": partition, "slots": tuple(fields["slots"])})
    return _silent(info, concept["shapes"], concept["tokens"])


def _silent(info: AdapterInfo, shapes: Mapping[str, Any], tokens: Mapping[str, Any]) -> Adapter:
    lora = {
        component: {path: LoRAPair(_zeros((n, info.rank)), _zeros((info.rank, m))) for path, (n, m) in layers.items()}
        for component, layers in shapes.items()
    }
    return Adapter(lora=lora, tokens={token: _zeros(tuple(shape)) for token, shape in tokens.items()}, info=info)


def _zeros(shape: Sequence[int]) -> np.ndarray:
    return np.broadcast_to(np.float32(0), tuple(shape))


def _shapes(tokens: Mapping[str, Any]) -> dict[str, list[int]]:
    return {token: list(np.shape(vectors)) for token, vectors in tokens.items()}
