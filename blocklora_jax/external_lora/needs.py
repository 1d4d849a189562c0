"""Whether a file's changes depend on the base model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.algorithms.dora import DORA, MAGNITUDES
from blocklora_jax.external_lora.algorithms.layer import Algorithm
from blocklora_jax.external_lora.grouping import algorithms_of, group_parts
from blocklora_jax.external_lora.kinds import unsupported_kind
from blocklora_jax.external_lora.peft_config import PeftConfigs
from blocklora_jax.external_lora.starts import initial_file, start_of
from blocklora_jax.io.tensor_file import open_tensors


def needs_base(path: str | Path) -> bool:
    """Whether the changes in a file can be read only with the base model. Reads only the header.

    False for files that cannot be read at all: `read_external_lora` says why.
    """
    try:
        with open_tensors(path, "LoRA file", verify=False) as file:
            shapes = {key: file.shape(key) for key in file.keys}
            return not unsupported_kind(file.keys) and bool(base_dependence(path, shapes, file.metadata))
    except UserError:
        return False


def base_dependence(path: str | Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """What in a file depends on the base, as in `needed_by`. shapes: of its tensors, by name. metadata: its header.

    Raises: UserError for tensors of no known layer or part, and for settings of PEFT that cannot be obeyed.
    """
    groups = group_parts(path, shapes)
    kinds = algorithms_of(groups)
    parts = {part for group in (groups.layers, groups.norms) for each in group.values() for part in each}
    configs = PeftConfigs.read(path, metadata, shapes, parts, peft_type_of(kinds), has_base=True)
    starts = [config.get("init_lora_weights") for config in configs.by_component.values()]
    is_saved = any(initial_file(path, start) for start in starts)
    return needed_by(kinds, groups.layers, "" if is_saved else start_in(configs))


def needed_by(kinds: Mapping[Any, Algorithm | None], layers: Mapping[Any, Mapping[str, Any]], start: str) -> str:
    """What in a file depends on the base: "a GLoRA (…)"; "" if nothing does. start: see `starts.start_of`."""
    if any(set(MAGNITUDES) & parts.keys() for parts in layers.values()):
        return DORA
    title = next((kind.title for kind in kinds.values() if kind and kind.needs_base), "")
    return title or (f"a LoRA that {start} started" if start else "")


def peft_type_of(kinds: Mapping[Any, Algorithm | None]) -> str:
    """What PEFT calls the kind of a file's layers: "LORA"."""
    return next((kind.peft_type for kind in kinds.values() if kind and kind.peft_type), "LORA")


def start_in(configs: PeftConfigs) -> str:
    """The start in PEFT's settings that changed the base: "pissa"; "" if there is none."""
    starts: Iterable[str] = (start_of(config.get("init_lora_weights")) for config in configs.by_component.values())
    return next(filter(None, starts), "")
