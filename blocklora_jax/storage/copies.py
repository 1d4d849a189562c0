"""Local copies of files and folders of object stores. What is there already and unchanged is not fetched again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import temporary_beside, write_json
from blocklora_jax.io.locks import hold
from blocklora_jax.storage.address import is_remote, local_name, url_of
from blocklora_jax.storage.objects import ObjectFolder, explained, list_files

SETTING = "BLOCKLORA_STAGING"
_LIST = "files.json"
# Addresses by local copy.
_ORIGINALS: dict[str, str] = {}


def staging_folder() -> Path:
    """The folder for local copies: $BLOCKLORA_STAGING, or one in the user's cache folder."""
    if setting := os.environ.get(SETTING):
        return Path(setting).expanduser().absolute()
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "blocklora" / "staging"


def fetch(address: str | Path) -> Path:
    """A local copy of a file or folder of an object store. Raises: UserError if it is not there."""
    url = url_of(address)
    copy = staging_folder() / "inputs" / local_name(url)
    with hold(copy.parent, "fetching files to", patience=3600.0):
        _update(url, copy)
    return copy


def download(folder: ObjectFolder, into: Path, leave: Sequence[str] = ()) -> None:
    """Copy all files into `into`, with their names in the folder; without those whose names begin as `leave` says."""
    for name in list_files(folder):
        if not name.startswith(tuple(leave)):
            _copy(folder, name, into / name)


def remember(copy: Path, url: str) -> None:
    """From now on, `original` gives `url` for a local copy."""
    _ORIGINALS[str(copy)] = url


def original(path: str) -> str:
    """The address of which `path` is a local copy, or which it is itself; other paths and texts are given back."""
    known = _ORIGINALS.get(path, path)
    return url_of(known) if is_remote(known) else known


def _update(url: str, copy: Path) -> None:
    parent, _, base = url.rpartition("/")
    folder = ObjectFolder(url)
    found = list_files(folder)
    if not found:
        folder, found = ObjectFolder(parent), {k: v for k, v in list_files(ObjectFolder(parent)).items() if k == base}
        if not found:
            raise UserError(f"there is no file or folder {url}")
        places = {base: copy}
    else:
        places = {name: copy / name for name in found}
    known, now = _read_list(copy.parent / _LIST), {name: _version(info) for name, info in found.items()}
    for name, place in places.items():
        if known.get(name) != now[name] or not place.exists():
            _copy(folder, name, place)
    for name in known.keys() - now.keys():
        (copy / name).unlink(missing_ok=True)
    write_json(copy.parent / _LIST, now)


def _copy(folder: ObjectFolder, name: str, place: Path) -> None:
    if ".." in Path(name).parts:
        raise UserError(f"{folder.url} has a file named {name!r}, which is no path below it")
    place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(place) as temporary:
        with explained(folder.url, "read"):
            folder.files.get_file(folder.path(name), str(temporary))
        os.replace(temporary, place)


def _read_list(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _version(info: dict[str, Any]) -> str:
    """What changes when an object does."""
    return str([info.get(key) for key in ("size", "ETag", "etag", "LastModified", "mtime", "updated", "created")])


def clear(folder: Path) -> None:
    """Remove a local copy."""
    shutil.rmtree(folder, ignore_errors=True)
