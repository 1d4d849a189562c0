"""Train the concepts of a bench by every recipe, each apart from the others. Finished adapters are used again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.core.measures import Subject
from benchmarks.modular.pocket.concepts import write_references
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import PRIVATE_SETTINGS, ConceptConfig, settings_as_flags
from train.concept.groups import train_concepts
from train.concept.inputs import check_inputs
from train.concept.run_folder import MAY_CHANGE, changed_settings
from train.concept.unused_settings import without_unused
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions
from train.engine.platform import select_platform
from train.shares.share import Share

ALL = Share(0, 1)


def teach(
    concepts: Sequence[Subject],
    sd: StableDiffusion,
    settings: Mapping[str, Any],
    folder: Path,
    at_once: int,
    blocks: int = 16,
    slots_each: int = 1,
    write: Callable[..., dict[str, dict[str, Any]]] = write_references,
    share: Share = ALL,
) -> list[Adapter]:
    """Adapters of `concepts`, in their order; the first has the first `slots_each` slots, and so on.

    sd: the base. settings: of `train.concept`, for all. folder: holds the adapters, and groups that were interrupted.
    blocks: slots, where the settings ask for blocks. write: gives the concepts' entries in a concepts file, and their
    pictures a folder. share: which groups of `at_once` concepts are taught here; nothing is written for the others.

    Raises: UserError for adapters that were taught with other settings, and as `train_concepts` does.
    """
    dealt = {start: concepts[start : start + at_once] for start in range(0, len(concepts), at_once)}
    own = dict(list(dealt.items())[share.index :: share.count])
    entries = write([concept for group in own.values() for concept in group], folder.parent / "references")
    groups: list[tuple[ConceptsOptions, list[ConceptConfig]]] = []
    for start, group in own.items():
        slots = np.arange(start * slots_each, (start + len(group)) * slots_each).reshape(len(group), -1)
        named = {c.name: entries[c.name] | {"slot": slot.tolist()} for c, slot in zip(group, slots, strict=True)}
        groups.append(_read(named, {"blocks": blocks, **settings}, folder / f"{start:03d}"))
    # All of them before any of them trains, which may take hours.
    check_inputs([config for _, configs in groups for config in configs if not _adapter_of(config).is_file()], sd)
    adapters: list[Adapter] = []
    for options, configs in groups:
        if not all(_adapter_of(config).is_file() for config in configs):
            train_concepts(configs, options.groups, options.at_once, select_platform())
        for config in configs:
            adapters.append(Adapter.load(_adapter_of(config)))
            _check_taught(_adapter_of(config), adapters[-1], config)
    return adapters


def _adapter_of(config: ConceptConfig) -> Path:
    return config.out / "adapter.safetensors"


def _read(
    entries: dict[str, dict[str, Any]], settings: Mapping[str, Any], place: Path
) -> tuple[ConceptsOptions, list[ConceptConfig]]:
    listing = place / "concepts.yaml"
    write_json(listing, entries)  # JSON is YAML
    begun = any((place / name / "config.json").exists() for name in entries)
    # The bench draws its own pictures.
    flags = settings_as_flags({"previews": False, "report": False, "save_every": 100, **settings, "resume": begun})
    options = ConceptsOptions(concepts=listing, out=place, at_once=len(entries))
    # The settings are the same for all recipes, of which some do not use all.
    return options, [without_unused(config) for config in read_concepts(options, flags)]


def _check_taught(path: Path, adapter: Adapter, config: ConceptConfig) -> None:
    """Raises: UserError if an adapter was trained with other settings than `config`. The images' folder may differ."""
    may_change = MAY_CHANGE | PRIVATE_SETTINGS
    # The codewords' digest is recorded with the settings, but is none: it follows from the basis.
    recorded = {name: value for name, value in json.loads(adapter.info.training).items() if name != "codewords"}
    if changed := changed_settings(recorded, config, may_change):
        raise UserError(f"{path} was taught with other settings: {'; '.join(changed)}: use another --out")
