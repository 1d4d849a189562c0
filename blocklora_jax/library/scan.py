"""Scans a folder for LoRA files. Files that did not change since the last scan are not opened again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from blocklora_jax.errors import UserError
from blocklora_jax.library.entry import Entry, Found, new_entry, rescanned
from blocklora_jax.library.scan_file import digest_of, scan_file, stamp_of
from blocklora_jax.library.unique_names import unique_names
from blocklora_jax.library.yaml_file import FILE, read_entries, write_entries

ENDINGS = (".safetensors",)
# Files of weights that may run code when they are opened. They are listed, so that none is missed silently.
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
MISSING = "the file is no longer there"
_NOT_TEXT = "its name, or that of its folder, is not UTF-8 text: rename it"
_THREADS = 4
_SAVE_SECONDS = 20.0


def scan_folder(folder: Path, entries: Sequence[Entry] = ()) -> list[Entry]:
    """All LoRA files below `folder`: those of `entries` first, in their order, then new ones. Only headers are read.

    An entry whose file is gone gets the problem `MISSING`.
    """
    known = {entry.file: entry for entry in entries}
    files = {_readable(path.relative_to(folder).as_posix()): path for path in lora_files(folder)}
    found = {}
    for file, path in tqdm(files.items(), desc="headers", unit="file", dynamic_ncols=True, disable=None):
        is_text = file == path.relative_to(folder).as_posix()
        found[file] = _found(path, known.get(file)) if is_text else Found(name="lora", problems=(_NOT_TEXT,))
    taken = {entry.name for entry in entries}
    names = unique_names({file: each.name for file, each in found.items() if file not in known}, taken)
    kept = [
        rescanned(entry, replace(found[entry.file], name=entry.found.name))
        if entry.file in found
        else replace(entry, found=replace(entry.found, problems=(MISSING,), stamp=""))
        for entry in entries
    ]
    return kept + [new_entry(file, replace(found[file], name=name)) for file, name in names.items()]


def scan_library(folder: Path, digests: bool = True) -> list[Entry]:
    """Scan `folder` and write its library.yaml. Gives the entries.

    digests: also compute the digests of new files, which reads them whole. If that is interrupted, what was computed is
    kept, and the next scan goes on. A file that was moved or renamed keeps its entry.
    """
    path = folder / FILE
    listed = read_entries(path) if path.exists() else []
    entries = scan_folder(folder, listed)
    if not digests:
        write_entries(path, entries)
        return entries
    try:
        entries = _moved(folder, entries, len(listed))
        write_entries(path, entries)
        for computed in _digests(folder, entries):
            entries = computed
            write_entries(path, entries)
    finally:
        write_entries(path, entries)
    return entries


def lora_files(folder: Path) -> Iterator[Path]:
    """All files of weights below `folder`, sorted. Hidden files and folders are left out; links are followed once."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}" if not folder.exists() else f"{folder} is not a folder")
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        state = os.stat(root)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith((*ENDINGS, *_PICKLES)):
                yield Path(root) / name


def duplicates(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Groups of entries whose files are equal."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.found.digest and MISSING not in entry.found.problems:
            groups.setdefault(entry.found.digest, []).append(entry)
    return [group for group in groups.values() if len(group) > 1]


def _readable(file: str) -> str:
    """A file's name as text, with marks in place of what is not UTF-8."""
    return os.fsencode(file).decode("utf-8", "replace")


def _found(path: Path, entry: Entry | None) -> Found:
    """What is in a file. Nothing is read if it has the stamp that the last scan saw."""
    try:
        if entry is not None and entry.found.stamp and entry.found.stamp == stamp_of(path):
            return entry.found
        return scan_file(path)
    except OSError as error:
        return Found(name=path.stem, problems=(f"it cannot be read: {error.strerror or error}",))


def _moved(folder: Path, entries: list[Entry], listed: int) -> list[Entry]:
    """`entries`, where a new file that equals a missing one takes over its entry.

    listed: how many the library's file has. Their files keep their own entries, which a person may have edited.
    """
    missing = {e.found.digest: i for i, e in enumerate(entries) if MISSING in e.found.problems and e.found.digest}
    sizes = {entries[i].found.size for i in missing.values()}
    result: list[Entry | None] = list(entries)
    for i, entry in enumerate(entries[listed:], listed):
        if missing and not entry.found.digest and entry.found.size in sizes:
            digest = _digest(folder / entry.file)
            entry = result[i] = replace(entry, found=replace(entry.found, digest=digest))
            if (old := missing.pop(digest, None)) is not None:
                result[i] = None
                result[old] = rescanned(
                    replace(entries[old], file=entry.file), replace(entry.found, name=entries[old].found.name)
                )
    return [entry for entry in result if entry is not None]


def _digests(folder: Path, entries: list[Entry]) -> Iterator[list[Entry]]:
    """The entries with digests, every few seconds and at the end."""
    wanted = [i for i, entry in enumerate(entries) if not entry.found.digest and MISSING not in entry.found.problems]
    if not wanted:
        return
    result, saved = list(entries), time.monotonic()
    size = sum(entries[i].found.size for i in wanted)
    bar = tqdm(total=size, desc="digests", unit="B", unit_scale=True, dynamic_ncols=True, disable=None)
    with ThreadPoolExecutor(_THREADS) as pool, bar:
        digests = pool.map(lambda i: _digest(folder / entries[i].file), wanted)
        for i, digest in zip(wanted, digests, strict=True):
            result[i] = replace(entries[i], found=replace(entries[i].found, digest=digest))
            bar.update(entries[i].found.size)
            if time.monotonic() - saved > _SAVE_SECONDS:
                saved = time.monotonic()
                yield list(result)
    yield result


def _digest(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError:
        return ""
