"""The record of a finished group of concepts, and whether its adapters are still whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.tensor_digest import DIGEST_KEY
from blocklora_jax.io.tensor_file import open_tensors
from blocklora_jax.storage.folder import SharedFolder

RECORD = "finished.json"


def record_finished(folder: SharedFolder, group: str, adapters: Sequence[Path]) -> bool:
    """Record that `adapters` are the result of `group`; False if another process has recorded it before."""
    digests = {path.parent.name: whole_digest(path) for path in adapters}
    return folder.create(f"{group}/{RECORD}", (json.dumps({"adapters": digests}, indent=1) + "\n").encode())


def is_recorded(folder: SharedFolder, group: str) -> bool:
    """Whether a process recorded that `group` is finished."""
    return folder.read(f"{group}/{RECORD}") is not None


def damaged_adapters(folder: SharedFolder, group: str, adapters: Sequence[Path]) -> list[Path]:
    """Those of the `adapters` of a finished group that are missing, damaged or not the recorded ones."""
    try:
        recorded = json.loads(folder.read(f"{group}/{RECORD}") or b"{}")["adapters"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return list(adapters)
    return [path for path in adapters if not _is_whole(path, recorded.get(path.parent.name))]


def forget_finished(folder: SharedFolder, group: str) -> None:
    """Remove the record, so that the group is trained again from its last checkpoint."""
    folder.remove(f"{group}/{RECORD}")


def whole_digest(path: Path) -> str:
    """The digest of an adapter file whose contents match it. Raises: UserError if they do not."""
    with open_tensors(path, "adapter file") as file:
        for _ in file.tensors():
            pass
        return file.metadata.get(DIGEST_KEY, "")


def _is_whole(path: Path, digest: object) -> bool:
    try:
        return bool(digest) and whole_digest(path) == digest
    except UserError:
        return False
