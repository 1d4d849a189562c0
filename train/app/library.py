"""The library: the concepts in a folder, found by name. Names from a browser are only looked up, never made paths."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.names import plain_name, same_name
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.open_picture import open_picture, to_rgb
from blocklora_jax.io.printing import one_line

FILE = "adapter.safetensors"
_COLUMNS, _MARGIN = 4, 4  # of the preview grids
_KEPT = 64  # adapters in memory


class Entry(NamedTuple):
    """A concept of the library. folder: it has the adapter file, and what training wrote."""

    name: str
    folder: Path
    adapter: Adapter

    @property
    def path(self) -> Path:
        """The adapter file."""
        return self.folder / FILE

    @property
    def label(self) -> str:
        """The concept in one line: its name, its trigger, its slot."""
        info = self.adapter.info
        trigger = f" · {info.trigger}" if info.trigger else ""
        return one_line(f"{self.name}{trigger} · {info.place()}", 200)

    def picture(self) -> Image.Image | None:
        """A picture of the concept: the first one of its last preview; None if there is none."""
        for path in reversed(previews(self.folder)):
            try:
                grid = open_picture(path, to_rgb)
            except UserError:
                continue
            side = (grid.width - _MARGIN) // _COLUMNS - _MARGIN
            return grid.crop((_MARGIN, _MARGIN, _MARGIN + side, min(_MARGIN + side, grid.height)))
        return None


class Library:
    """The concepts in the folder `root`: each has a folder of its own with an adapter file."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def entries(self) -> tuple[list[Entry], list[str]]:
        """All concepts that can be read, by name, and a line for each file that cannot."""
        entries, problems = [], []
        for folder in self.folders():
            path = folder / FILE
            if not path.is_file():
                continue
            try:
                entries.append(Entry(folder.name, folder, read_adapter(path)))
            except UserError as error:
                problems.append(one_line(error))
        return entries, problems

    def folders(self) -> list[Path]:
        """The folders in the library, sorted by name. Links that lead out of it are left out."""
        try:
            seen = sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []
        root = self.root.resolve()
        return [path for path in seen if path.is_dir() and path.resolve().is_relative_to(root)]

    def find(self, names: list[str]) -> list[Entry]:
        """The concepts with these names; no other files are read.

        Raises: UserError for a name that is not in the library, or a file that cannot be read.
        """
        known = {folder.name: folder for folder in self.folders() if (folder / FILE).is_file()}
        if missing := [name for name in names if name not in known]:
            raise UserError(f"the library has no concept {missing[0]!r}: there are {', '.join(known) or 'none yet'}")
        return [Entry(name, known[name], read_adapter(known[name] / FILE)) for name in names]

    def new_folder(self, name: str) -> Path:
        """The folder for a new concept, which is not made. Raises: UserError for a bad name, or one that is taken."""
        folder = self.root / plain_name(name, "the concept's name")
        if taken := [path.name for path in self.folders() if same_name(path.name) == same_name(name)]:
            raise UserError(f"there is a folder {taken[0]} in the library already: choose another name")
        return folder

    def add_file(self, path: Path) -> Entry:
        """Copy an adapter file into the library, under the name that it states.

        Raises: UserError if it is no adapter, or if the library has a concept of this name.
        """
        adapter = Adapter.load(path)
        folder = self.new_folder(adapter.name)
        folder.mkdir(parents=True)
        write_atomic(folder / FILE, path.read_bytes())
        return Entry(folder.name, folder, adapter)


def previews(folder: Path) -> list[Path]:
    """The preview grids of a run, the earliest first."""
    return sorted(path for path in (folder / "previews").glob("[0-9]*.png") if path.stem.isdecimal())


def read_adapter(path: Path) -> Adapter:
    """The adapter in a file. It is kept in memory until the file changes."""
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return _read(os.fspath(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=_KEPT)
def _read(path: str, changed: int, size: int) -> Adapter:
    return Adapter.load(path)
