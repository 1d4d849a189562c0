"""The seal of a checkpoint: a file with digests of the files that hold the state, so that orbax never reads damage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from train.engine.state_digest import digest_of

SEAL = "blocklora_seal.json"
_VERSION = 1


class DamagedError(Exception):
    """A checkpoint cannot be read, or does not hold what was saved; the message says why."""


class SealingHandler(ocp.CompositeCheckpointHandler):
    """Saves as orbax does, and writes a seal and flushes all files before orbax renames the finished checkpoint."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        super().__init__(default=ocp.StandardCheckpointHandler())
        self._record = record

    def finalize(self, directory: Any) -> None:
        """Called by orbax on the first host, once all hosts have written."""
        super().finalize(directory)
        folder = Path(directory)
        write_seal(folder, self._record)
        for path in (*folder.rglob("*"), folder):
            flush(path)


@ocp.args.register_with_handler(SealingHandler, for_save=True, for_restore=True)
class SealedArgs(ocp.args.Composite):
    """The arguments of `SealingHandler`. orbax requires a class of arguments for each handler."""


def write_seal(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `record` and a digest of every file in the subfolders of `folder`.

    orbax still changes the files beside the subfolders; these hold no part of the state.
    """
    seal = {"version": _VERSION, **record, "files": _digests(folder)}
    (folder / SEAL).write_text(json.dumps(seal | {"seal": digest_of(seal)}, indent=1))


def read_seal(folder: Path) -> dict[str, Any] | None:
    """The record of a checkpoint whose files are all unchanged; None if it was saved without a seal.

    Raises: DamagedError if a file is missing, changed, or added.
    """
    try:
        seal = json.loads((folder / SEAL).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{SEAL} cannot be read") from error
    if not isinstance(seal, dict) or seal.pop("seal", None) != digest_of(seal):
        raise DamagedError(f"{SEAL} is changed")
    if seal["version"] != _VERSION:
        raise DamagedError("a newer version of this program saved it")
    digests = _digests(folder)
    for name in sorted(digests.keys() | seal["files"].keys()):
        if digests.get(name) != seal["files"].get(name):
            state = "missing" if name not in digests else "changed" if name in seal["files"] else "not part of it"
            raise DamagedError(f"its file {name} is {state}")
    return seal


def flush(path: Path) -> None:
    """Write a file's or folder's contents to disk, so that a power failure does not destroy them."""
    with suppress(OSError):  # Some file systems do not flush folders.
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    try:
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    except OSError as error:
        raise DamagedError(f"{error.filename}: {error.strerror}") from error
