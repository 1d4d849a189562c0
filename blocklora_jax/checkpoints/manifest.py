"""The manifest `blocklora.json` in a model's folder: the files that we wrote, with digests, and what was merged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.outputs import MANIFEST
from blocklora_jax.io.tensor_digest import DIGEST_KEY
from blocklora_jax.io.tensor_file import read_metadata

VERSION = 2
_KEY = "blocklora_model"
_AGAIN = "restore the folder, or save the model again"


def write_manifest(folder: Path, merge: Mapping[str, Any] | None) -> None:
    """Write the manifest of all files in `folder`. merge: the record of a merge, see `merge.manifest`."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("**/*")) if path.is_file()]
    value = {_KEY: VERSION, "files": {name: _digest(folder / name) for name in names}, "merge": merge}
    write_json(folder / MANIFEST, {**value, "digest": _of_json(value)})


def read_manifest(folder: str | Path, verify: bool = True) -> dict[str, Any] | None:
    """The manifest in `folder`. None if there is none, or an old one without a list of files.

    Raises: UserError if it cannot be read, has another version, or is damaged.
    """
    path = Path(folder).expanduser() / MANIFEST
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not ({_KEY, "blocklora_merge"} & value.keys()):
        raise UserError(f"{path} is not a manifest of this program: {_AGAIN}")
    if "blocklora_merge" in value and _KEY not in value:
        return None
    version, stated = value[_KEY], value.pop("digest", None)
    if version != VERSION or isinstance(version, bool):
        raise UserError(f"{path} has version {str(version)[:20]}; this program reads {VERSION}: update blocklora_jax")
    if verify and stated != _of_json(value):
        raise UserError(f"{path} is damaged: its contents do not match its own digest. {_AGAIN}")
    files = value.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise UserError(f"{path} has no list of files: {_AGAIN}")
    return value


def changed_files(folder: str | Path, manifest: Mapping[str, Any]) -> list[str]:
    """Names in the manifest of files that were changed since they were written. Missing files do not count."""
    root = Path(folder).expanduser()
    return [
        name for name, digest in manifest["files"].items() if (root / name).is_file() and _digest(root / name) != digest
    ]


def check_files(folder: str | Path) -> None:
    """Raise UserError if the folder has a manifest and a file differs from its digest there."""
    manifest = read_manifest(folder)
    if manifest is not None and (changed := changed_files(folder, manifest)):
        raise UserError(
            f"{folder}: {', '.join(changed[:4])} differ from what was written there (see {MANIFEST}): {_AGAIN}. If it"
            " was edited on purpose, --no-verify (verify=False) reads it anyway"
        )


def files_of_ours(folder: str | Path) -> list[str]:
    """The files in `folder` that we wrote and nobody changed since. A new model in this place replaces them."""
    try:
        manifest = read_manifest(folder)
    except UserError:
        manifest = None
    if manifest is None:
        return []
    changed = set(changed_files(folder, manifest))
    return [name for name in manifest["files"] if name not in changed]


def _digest(path: Path) -> str:
    """The digest of a file: for safetensors the one in the header, which is verified on reading; else of its bytes."""
    if path.suffix == ".safetensors":
        try:
            return read_metadata(path).get(DIGEST_KEY, "")
        except UserError:
            return "unreadable"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _of_json(value: Mapping[str, Any]) -> str:
    text = json.dumps({key: item for key, item in value.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
