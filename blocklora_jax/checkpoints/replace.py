"""Writes a folder of several files so that a crash leaves the old folder or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import OLD, sync_folder, temporary_beside


@contextmanager
def replace_folder(path: str | Path, dropped: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty folder beside `path` to write into. It replaces `path` when the block ends without an error.

    Files of the old folder that were not written again are kept, except those `dropped`. On Linux and macOS the two
    folders are exchanged in one step. If the file system cannot do that, a crash in the middle may leave nothing at
    `path`. Then the next write, or `recover_folder`, restores the old folder.

    Args:
        path: the folder to make or to replace.
        dropped: files of the old folder that are not kept, such as "unet/config.json".

    Raises:
        UserError: `path` is a file, or the files cannot be written.
    """
    path = Path(os.path.realpath(Path(path).expanduser().absolute()))
    if path.exists() and not path.is_dir():
        raise UserError(f"cannot write the folder {path}: there is a file of that name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(path)
        with temporary_beside(path) as beside:
            new = beside / "new"
            new.mkdir(parents=True)
            yield new
            if path.exists():
                _keep_others(path, new, dropped)
            _sync(new)
            _put(new, path, beside / OLD)
            sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def recover_folder(path: Path) -> bool:
    """Restore the folder at `path` if a crash left it beside its place. Gives whether it was restored."""
    if path.exists() or not path.parent.is_dir():
        return False
    for beside in path.parent.glob(".blocklora-*.part"):
        note, old = beside / "name", beside / OLD
        with contextlib.suppress(OSError):
            if old.is_dir() and note.read_text(encoding="utf-8") == path.name:
                os.rename(old, path)
                shutil.rmtree(beside, ignore_errors=True)
                return True
    return False


def _put(new: Path, path: Path, old: Path) -> None:
    """Move `new` to `path`. The old folder is removed; if the process dies in between, it is at `old`."""
    if not path.exists():
        os.rename(new, path)
    elif not _exchange(new, path):
        (old.parent / "name").write_text(path.name, encoding="utf-8")
        os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. False if the system cannot do it."""
    if sys.platform not in ("linux", "darwin"):
        return False
    libc, first, second = ctypes.CDLL(None, use_errno=True), os.fsencode(one), os.fsencode(other)
    swap = 2  # RENAME_EXCHANGE, and RENAME_SWAP of macOS
    try:
        if sys.platform == "linux":
            here = -100  # AT_FDCWD
            return libc.renameat2(here, first, here, second, swap) == 0
        return libc.renamex_np(first, second, swap) == 0
    except AttributeError:  # an old C library
        return False


def _keep_others(old: Path, new: Path, dropped: Collection[str]) -> None:
    """Put the files of `old` that are not in `new` and not `dropped` into `new`, as hard links, which need no space."""
    for folder, names, files in os.walk(old):
        inner = Path(folder).relative_to(old)
        # Links to folders are not followed, and stay links.
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        kept = [name for name in [*files, *links] if (inner / name).as_posix() not in dropped]
        kept = [name for name in kept if not os.path.lexists(new / inner / name)]
        if (kept or not (names or files)) and not (new / inner).is_dir():
            (new / inner).mkdir(parents=True)
        for name in kept:
            _link(Path(folder) / name, new / inner / name)


def _link(source: Path, target: Path) -> None:
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _sync(folder: Path) -> None:
    """Flush all files and names to disk before they are moved to their final place."""
    for path in folder.glob("**/*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)
