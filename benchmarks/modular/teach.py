"""Training the concepts of a bench, each apart from the others, by every recipe; what is finished is used again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.concepts import write_references
from benchmarks.modular.measures import Subject
from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.files import write_json
from train.concepts import ConceptsOptions, read_concepts, train_concepts
from train.config import settings_as_flags
from train.platform import select_platform


def teach(
    concepts: Sequence[Subject],
    settings: Mapping[str, Any],
    folder: Path,
    at_once: int,
    blocks: int = 16,
    slots_each: int = 1,
    write: Callable[..., dict[str, dict[str, Any]]] = write_references,
) -> list[Adapter]:
    """Adapters of `concepts`, in their order; the first has the first `slots_each` slots, and so on.

    settings: of `train.concept`, for all. folder: holds the adapters, and groups that were interrupted. blocks: slots, where
    the settings ask for blocks. write: gives the concepts' entries in a concepts file, and their pictures a folder.
    """
    entries = write(concepts, folder.parent / "references")
    adapters: list[Adapter] = []
    for start in range(0, len(concepts), at_once):
        group, place = concepts[start : start + at_once], folder / f"{start:03d}"
        paths = [place / concept.name / "adapter.safetensors" for concept in group]
        if not all(path.is_file() for path in paths):
            slots = np.arange(start * slots_each, (start + len(group)) * slots_each).reshape(len(group), -1)
            named = {c.name: entries[c.name] | {"slot": own.tolist()} for c, own in zip(group, slots, strict=True)}
            _train(named, {"blocks": blocks, **settings}, place)
        adapters += [Adapter.load(path) for path in paths]
    return adapters


def _train(entries: dict[str, dict[str, Any]], settings: Mapping[str, Any], place: Path) -> None:
    listing = place / "concepts.yaml"
    write_json(listing, entries)  # JSON is YAML
    begun = any((place / name / "config.json").exists() for name in entries)
    flags = settings_as_flags({"preview_every": 0, "save_every": 100, **settings, "resume": begun})
    options = ConceptsOptions(concepts=listing, out=place, at_once=len(entries))
    train_concepts(read_concepts(options, flags), options, select_platform())
