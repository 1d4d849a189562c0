"""Local copies of files and folders of object stores. What is there already and unchanged is not fetched again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import temporary_beside, write_json
from blocklora_jax.io.locks import hold
from blocklora_jax.storage.address import is_remote, local_name, url_of
from blocklora_jax.storage.objects import ObjectFolder, explained, list_files, open_store

SETTING = "BLOCKLORA_STAGING"
_LIST = "files.json"
# Addresses by local copy, and what this process has fetched.
_ORIGINALS: dict[str, str] = {}
_FETCHED: dict[str, Path] = {}
T = TypeVar("T", bound=str | Path)


def staging_folder() -> Path:
    """The folder for local copies: $BLOCKLORA_STAGING, or one in the user's cache folder."""
    if setting := os.environ.get(SETTING):
        return Path(setting).expanduser().absolute()
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "blocklora" / "staging"


def fetch(address: str | Path, leave: Sequence[str] = ()) -> Path:
    """A local copy of a file or folder of an object store.

    leave: as in `download`. Raises: UserError if it is not there.
    """
    url = url_of(address)
    copy = staging_folder() / "inputs" / local_name(url)
    with hold(copy.parent, "fetching files to", patience=3600.0):
        _update(url, copy, tuple(leave))
    return copy


def local_copy(place: T) -> T:
    """A path or text; if it is an address, a local copy. Other files name the address (see `original`).

    A copy that this process has is not compared with the store again: hundreds of concepts read one model.
    """
    if not is_remote(place):
        return place
    url = url_of(place)
    if url not in _FETCHED or not _FETCHED[url].exists():
        _FETCHED[url] = fetch(url)
        remember(_FETCHED[url], url)
    return type(place)(_FETCHED[url])


def matches(address: str | Path) -> list[str]:
    """The addresses of the files and folders that a pattern such as s3://bucket/runs/*/adapter.safetensors matches."""
    url = url_of(address)
    protocol, _, path = url.partition("://")
    files = open_store(url)
    with explained(url, "read"):
        files.invalidate_cache()
        found = sorted(files.glob(path))
    if not found:
        raise UserError(f"there is no file or folder {url}")
    return [f"{protocol}://{each.strip('/')}" for each in found]


def download(folder: ObjectFolder, into: Path, leave: Sequence[str] = ()) -> None:
    """Copy all files into `into`, with their names in the folder; without those whose names begin as `leave` says."""
    for name in list_files(folder):
        if not name.startswith(tuple(leave)):
            copy_object(folder, name, into / name)


def remember(copy: Path, url: str) -> None:
    """From now on, `original` gives `url` for a local copy."""
    _ORIGINALS[str(copy)] = url


def original(path: str) -> str:
    """The address of which `path` is a local copy, or which it is itself; other paths and texts are given back."""
    known = _ORIGINALS.get(path, path)
    if known == path and path.startswith(f"{staging_folder()}{os.sep}"):
        above = next((copy for copy in _ORIGINALS if path.startswith(f"{copy}{os.sep}")), None)
        known = f"{_ORIGINALS[above]}{path.removeprefix(above)}" if above else path
    return url_of(known) if is_remote(known) else known


def with_originals(text: str) -> str:
    """`text`, with addresses in the place of the local copies that it names."""
    for copy in sorted(_ORIGINALS, key=len, reverse=True):
        text = text.replace(copy, _ORIGINALS[copy])
    return text


@contextmanager
def errors_name_originals() -> Iterator[None]:
    """Within this context, errors name addresses, and not their local copies."""
    try:
        yield
    except UserError as error:
        if (text := with_originals(str(error))) != str(error):
            raise UserError(text) from error
        raise


def _update(url: str, copy: Path, leave: tuple[str, ...]) -> None:
    folder, found = ObjectFolder(url), {}
    parent, _, base = url.rpartition("/")
    # A bucket is no file.
    info = None if parent.endswith("/") else ObjectFolder(parent).info(base)
    if info is not None:
        folder, found, places = ObjectFolder(parent), {base: info}, {base: copy}
    else:
        found = {name: each for name, each in list_files(folder).items() if not name.startswith(leave)}
        places = {name: copy / name for name in found}
    if not found:
        raise UserError(f"there is no file or folder {url}")
    known, now = _read_list(copy.parent / _LIST), {name: _version(info) for name, info in found.items()}
    for name, place in places.items():
        if known.get(name) != now[name] or not place.exists():
            copy_object(folder, name, place)
    for name in known.keys() - now.keys():
        (copy / name).unlink(missing_ok=True)
    write_json(copy.parent / _LIST, now)


def copy_object(folder: ObjectFolder, name: str, place: Path) -> None:
    """Fetch one file. It appears whole."""
    if ".." in Path(name).parts:
        raise UserError(f"{folder.url} has a file named {name!r}, which is no path below it")
    place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(place) as temporary:
        folder.fetch(name, temporary)
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
