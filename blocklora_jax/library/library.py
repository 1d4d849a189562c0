"""Opens a library: a folder of LoRA files, or the library.yaml in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blocklora_jax.adapters.find import USUAL
from blocklora_jax.errors import UserError
from blocklora_jax.library.entry import Entry
from blocklora_jax.library.scan import scan_folder
from blocklora_jax.library.yaml_file import FILE, read_entries


def is_library(place: Path) -> bool:
    """Whether `place` is a YAML file or a folder of files, and so stands for many.

    A folder with an adapter under one of its usual names, such as that of a training run, stands for this adapter.
    """
    if place.is_dir():
        return (place / FILE).exists() or not any((place / name).is_file() for name in USUAL)
    return place.suffix.lower() in (".yaml", ".yml")


def open_library(place: Path) -> tuple[Path, list[Entry]]:
    """The folder of a library, and its entries, of which those with `use: false` are left out.

    Files that are new, or were changed since the last scan, are looked at now; nothing is written.

    Raises: UserError if there is no such folder or file, if no file in it is used, or for a damaged library.yaml.
    """
    if place.is_dir():
        folder, file = place, place / FILE
    elif place.exists():
        folder, file = place.parent, place
    else:
        raise UserError(f"there is no library {place}: `python -m merge library scan FOLDER` makes one")
    entries = [entry for entry in scan_folder(folder, read_entries(file) if file.exists() else ()) if entry.use]
    if not entries:
        raise UserError(f"there are no LoRA files in {folder} (.safetensors), or none that are used")
    return folder, entries


def usable(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, str]]:
    """The entries whose files can be used, and for each of the others, by file, the reason why it cannot."""
    reasons = {entry.file: "; ".join(entry.found.problems) for entry in entries if entry.found.problems}
    return [entry for entry in entries if entry.file not in reasons], reasons


def name_reasons(reasons: Mapping[str, str]) -> str:
    """All files with their reasons on one line. Files with the same reason are named together.

    >>> name_reasons({"a": "it is a LoHa", "b": "it is empty", "c": "it is a LoHa"})
    'it is a LoHa: a, c; it is empty: b'
    """
    files: dict[str, list[str]] = {}
    for file, reason in reasons.items():
        files.setdefault(reason, []).append(file)
    return "; ".join(f"{reason}: {', '.join(group)}" for reason, group in files.items())
