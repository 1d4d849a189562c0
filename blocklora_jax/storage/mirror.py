"""Copies what a run writes in a local folder to an object store, while it runs and at its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.locks import FOLDER_LOCK
from blocklora_jax.storage.objects import ObjectFolder

# Names of what is not finished, or is only of this machine.
_UNFINISHED = (".blocklora-", ".orbax-checkpoint-tmp", ".dropped-", ".clock-")
# Files that make a checkpoint or a run whole.
_ADAPTER = "adapter.safetensors"
_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt", "blocklora_seal.json", _ADAPTER, "finished.json")


class Mirror:
    """Uploads the files of a folder. Objects have the files' names, and appear whole.

    below: the parts of the folder that are uploaded; all of it by default. every: seconds between two looks.
    """

    def __init__(self, local: Path, remote: ObjectFolder, below: Sequence[str] = ("",), every: float = 20.0) -> None:
        self._local, self._remote, self._below, self._every = local, remote, tuple(below), every
        self._sent: dict[str, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="mirror")

    def start(self) -> None:
        """Upload in the background from now on."""
        self._thread.start()

    def finish(self, patience: float) -> None:
        """Upload what is left, and wait for it up to `patience` seconds.

        Raises: UserError if not all is uploaded then. The local files stay, and what was uploaded too.
        """
        self._stop.set()
        self._thread.join(patience)
        if self._thread.is_alive() or self._problem is not None:
            reason = self._problem or f"it takes longer than {patience:.0f} seconds"
            raise UserError(
                f"not all files are in {self._remote} ({reason}): the rest is in {self._local}; copy it there, or run "
                "the command again with --resume"
            )

    def _work(self) -> None:
        while True:
            is_last = self._stop.wait(self._every)
            try:
                self.upload()
                self._problem = None
            except Exception as error:  # Also what nobody foresaw must reach `finish`.
                self._problem = error
                if is_last and not isinstance(error, UserError):
                    raise
            if is_last:
                return

    def upload(self) -> None:
        """Upload new and changed files, then remove those that the run removed. Raises: UserError."""
        found = self._files()
        # What makes a checkpoint or a run whole comes last.
        for name in sorted(found, key=lambda name: (Path(name).name in _LAST, Path(name).name == _ADAPTER, name)):
            if self._sent.get(name) == found[name]:
                continue
            try:
                self._remote.upload(name, self._local / name)
            except (OSError, UserError):
                if not (self._local / name).exists():
                    continue  # The run removed it meanwhile, such as an old checkpoint.
                raise
            self._sent[name] = found[name]
        for name in self._sent.keys() - found.keys():
            self._remote.remove(name)
            del self._sent[name]

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every finished file, by its name."""
        files: dict[str, tuple[int, int]] = {}
        for folder, folders, names in os.walk(self._local):
            folders[:] = [each for each in folders if not any(mark in each for mark in _UNFINISHED)]
            for each in names:
                path = Path(folder, each)
                name = path.relative_to(self._local).as_posix()
                if each == FOLDER_LOCK or any(mark in each for mark in _UNFINISHED) or not self._is_below(name):
                    continue
                try:
                    status = path.stat()
                except OSError:
                    continue
                files[name] = status.st_size, status.st_mtime_ns
        return files

    def _is_below(self, name: str) -> bool:
        return any(not below or name == below or name.startswith(f"{below}/") for below in self._below)
