"""Writing a folder of several files so that a crash leaves the old one or the new one, never a mixture."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blocklora_jax.errors import UserError


@contextmanager
def replace_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Give an empty folder beside `path` to write into; move it to `path` when the block ends without an error.

    Args:
        path: the folder to make or to replace.
        marker: a file that shows that an existing folder is one of ours to replace ("model_index.json").

    Raises:
        UserError: `path` is a file, or a folder that holds something else; the disk will not take the files.
    """
    path = Path(path).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise UserError(f"cannot write the folder {path}: there is a file of that name")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise UserError(f"will not overwrite {path}: it holds other files and no {marker}; choose another folder")
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        new = beside / "new"
        new.mkdir()  # its mode follows the umask, that of mkdtemp does not
        yield new
        _flush(new)
        _swap(new, path, beside / "old")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise


def _flush(folder: Path) -> None:
    """Have all files on disk before they get their final name."""
    for path in folder.glob("**/*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
