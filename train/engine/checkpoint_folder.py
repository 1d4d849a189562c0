"""The folder of a run's checkpoints. Lists, renames and deletes whole checkpoints."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

# Every checkpoint has at least one of these. A folder with none of them was not written by this program.
_MARKS = ("_CHECKPOINT_METADATA", "commit_success.txt", "default", "blocklora_seal.json")
_TEMPORARY = ".orbax-checkpoint-tmp"
_DROPPED = ".dropped-"


class CheckpointFolder:
    """Checkpoints in `<folder>/<step>`. Other files in the folder are not changed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest first."""
        with suppress(OSError):
            return sorted((int(p.name) for p in self.path.iterdir() if _is_checkpoint(p)), reverse=True)
        return []

    def of(self, step: int) -> Path:
        """The path of the checkpoint of `step`, whether it exists or not."""
        return self.path / str(step)

    def move_aside(self, step: int) -> Path:
        """Rename `step` to `damaged-<step>`, or to `damaged-<step>-<i>` if that exists; returns the new path."""
        names = (f"damaged-{step}" + (f"-{i}" if i else "") for i in range(1_000_000))
        aside = next(path for name in names if not os.path.lexists(path := self.path / name))
        os.rename(self.of(step), aside)
        return aside

    def drop_all_but(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints. Each is renamed first, so that it goes as a whole."""
        for step in self.steps()[keep:]:
            with suppress(OSError):
                dropped = self.path / f"{_DROPPED}{step}"
                os.rename(self.of(step), dropped)
                shutil.rmtree(dropped)

    def remove_leftovers(self) -> None:
        """Delete checkpoints that a killed process had partly written or deleted."""
        for path in list(self.path.iterdir()) if self.path.is_dir() else ():
            name, mark, _ = path.name.partition(_TEMPORARY)
            if (mark and name.isdecimal()) or path.name.startswith(_DROPPED):
                shutil.rmtree(path, ignore_errors=True)


def _is_checkpoint(path: Path) -> bool:
    is_step = path.name.isascii() and path.name.isdecimal() and str(int(path.name[:20])) == path.name
    return is_step and any((path / mark).exists() for mark in _MARKS)
