"""Descriptions and file names of the adapters that a command writes, one for each that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.names import plain_name, same_name
from blocklora_jax.errors import UserError
from merge.cli.sources import Source


def with_descriptions(adapters: list[Adapter], **given: Sequence[str]) -> list[Adapter]:
    """The adapters with what the user gave, by flag: name, trigger or kind. Raises UserError for a wrong number."""
    for name, values in given.items():
        if len(values) not in (0, len(adapters)):
            raise UserError(f"{len(values)} of --{name} for {len(adapters)} files: give one for each, or none")
        if values:
            pairs = zip(adapters, values, strict=True)
            adapters = [replace(a, info=replace(a.info, **{name: value})) for a, value in pairs]
    return adapters


def new_paths(folder: Path, adapters: Sequence[Adapter], sources: Sequence[Source]) -> list[Path]:
    """A file NAME.safetensors for each adapter. Raises UserError for a name that cannot be, or that two have."""
    pairs = zip(adapters, sources, strict=True)
    names = [plain_name(adapter.name, f"{source.path}: the concept's name") for adapter, source in pairs]
    keys = [same_name(name) for name in names]
    if twice := [key for key in keys if keys.count(key) > 1]:
        same = [name for name, key in zip(names, keys, strict=True) if key == twice[0]]
        differ = ", which some file systems do not tell apart" * (len(set(same)) > 1)
        shown = " and ".join(repr(name) for name in dict.fromkeys(same))
        raise UserError(f"{len(same)} concepts are named {shown}{differ}: give each file another name with --name")
    return [folder / f"{name}.safetensors" for name in names]
