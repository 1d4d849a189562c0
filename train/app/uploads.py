"""Uploaded files: copied under their own names, which are checked, because a browser may send any name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.checks.names import plain_name, same_name
from blocklora_jax.errors import UserError
from train.concept.picture_files import SUFFIXES

# Pictures, captions, and captions of all pictures.
KINDS = (*SUFFIXES, ".txt", ".jsonl")
_MOST = 2000


def copy_uploads(uploads: Sequence[Path], folder: Path) -> None:
    """Copy files that the browser has sent into a new folder.

    Raises: UserError for no files, too many, a name that no file can have, another kind of file, or two of one name.
    """
    if not uploads:
        raise UserError("there are no pictures: add some, or choose an example")
    if len(uploads) > _MOST:
        raise UserError(f"{len(uploads)} files are too many for one concept: add at most {_MOST}")
    names = [plain_name(path.name, "the file") for path in uploads]
    if wrong := [name for name in names if Path(name).suffix.lower() not in KINDS]:
        raise UserError(f"{wrong[0]} is no picture and no caption: add files that end in {', '.join(KINDS)}")
    keys = [same_name(name) for name in names]
    if twice := [name for i, name in enumerate(names) if keys[i] in keys[:i]]:
        raise UserError(f"two files are called {twice[0]}: rename one of them")
    folder.mkdir(parents=True)
    for path, name in zip(uploads, names, strict=True):
        shutil.copyfile(path, folder / name)


def free_name(folder: Path, name: str) -> Path:
    """`folder`/`name`, or with -2, -3, … after the name if there is such a file or folder."""
    candidates = [folder / name, *(folder / f"{name}-{n}" for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())
