"""The record of a finished group of concepts, and whether its adapters are still whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.tensor_digest import DIGEST_KEY
from blocklora_jax.io.tensor_file import open_tensors
from blocklora_jax.storage.folder import SharedFolder
from blocklora_jax.storage.objects import ObjectFolder

RECORD = "finished.json"


def record_finished(folder: SharedFolder, group: str, adapters: Sequence[Path]) -> bool:
    """Record that `adapters` are the result of `group`; False if another process has recorded it before."""
    digests = {path.parent.name: whole_digest(path) for path in adapters}
    sizes = {path.parent.name: path.stat().st_size for path in adapters}
    record = {"adapters": digests, "bytes": sizes}
    return folder.create(f"{group}/{RECORD}", (json.dumps(record, indent=1) + "\n").encode())


def is_recorded(folder: SharedFolder, group: str) -> bool:
    """Whether a process recorded that `group` is finished."""
    return folder.read(f"{group}/{RECORD}") is not None


def damaged_adapters(folder: SharedFolder, group: str, adapters: Sequence[Path]) -> list[Path]:
    """Those of the `adapters` of a finished group that are missing, damaged or not the recorded ones."""
    recorded = _read(folder, group, "adapters")
    return [path for path in adapters if not _is_whole(path, recorded.get(path.parent.name))]


def missing_objects(root: ObjectFolder, folder: SharedFolder, group: str, adapters: Sequence[Path]) -> list[Path]:
    """Those of a finished group's adapters that an object store lacks, or has with another size.

    They are not fetched to be read again: such stores check what they keep.
    """
    recorded = _read(folder, group, "bytes")
    return [path for path in adapters if recorded.get(path.parent.name) != root.size(f"{path.parent.name}/{path.name}")]


def forget_finished(folder: SharedFolder, group: str) -> None:
    """Remove the record, so that the group is trained again from its last checkpoint."""
    folder.remove(f"{group}/{RECORD}")


def whole_digest(path: Path) -> str:
    """The digest of an adapter file whose contents match it. Raises: UserError if they do not."""
    with open_tensors(path, "adapter file") as file:
        for _ in file.tensors():
            pass
        return file.metadata.get(DIGEST_KEY, "")


def _read(folder: SharedFolder, group: str, part: str) -> dict[str, object]:
    try:
        recorded = json.loads(folder.read(f"{group}/{RECORD}") or b"{}")[part]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _is_whole(path: Path, digest: object) -> bool:
    try:
        return bool(digest) and whole_digest(path) == digest
    except UserError:
        return False
