"""Reads and writes a registry: a file, a folder with one, an object store, or a URL, which can only be read."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import json_bytes, write_json
from blocklora_jax.io.json_text import parse_json, read_text_bytes
from blocklora_jax.io.locks import hold_file
from blocklora_jax.registry.claims import Registry
from blocklora_jax.storage.address import is_remote, url_of
from blocklora_jax.storage.lease import take_lease
from blocklora_jax.storage.objects import ObjectFolder

FILE = "registry.json"
_LARGEST = 4 << 20  # bytes; thousands of entries
_PATIENCE = 300.0  # seconds; a lock is freed when its holder dies, so waiting is safe
_PATIENCE_OBJECT, _LEASE = 60.0, 30.0  # seconds, in object stores
_ANSWERING, _FETCHING = 10.0, 30.0  # seconds to wait for the next part of an answer, and for the whole answer


def read_registry(where: str | Path) -> Registry:
    """The registry at `where`: "registry.json", a folder that holds one, "https://…/registry.json".

    Raises: UserError if it does not exist, cannot be fetched, or is not a registry.
    """
    if is_remote(where):
        folder, name = _object(where)
        return _parse(_read_object(folder, name), url_of(where))
    text = _fetch(str(where)) if is_url(where) else _read(registry_file(where))
    return _parse(text, str(where))


def create_registry(where: str | Path, registry: Registry) -> Path:
    """Write a new registry and return its path. Raises UserError if it exists already, or if `where` is a URL."""
    if is_remote(where):
        folder, name = _object(where)
        if not folder.create(name, json_bytes(registry.to_json())):
            raise UserError(f"{folder}/{name} exists: add to it with `python -m merge registry add`")
        return Path(f"{folder}/{name}")
    path = _writable(where)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    with _locked(path):
        if path.exists():
            raise UserError(f"{path} exists: add to it with `python -m merge registry add`, or choose another place")
        write_json(path, registry.to_json())
    return path


def update_registry(where: str | Path, change: Callable[[Registry], Registry]) -> Registry:
    """Replace the registry at `where` by `change(registry)`. This is safe if other processes write to it too.

    A lock beside the file admits one writer at a time, and each reads what the one before wrote. A writer that is
    killed leaves no lock. A change that was made without the lock, such as by hand, is not overwritten.

    Raises: UserError like `read_registry`, for a URL, and if the file is locked or was changed meanwhile; and whatever
        `change` raises.
    """
    if is_remote(where):
        return _update_object(*_object(where), change)
    path = _writable(where)
    if not path.exists():
        _read(path)
    with _locked(path):
        before = _read(path)
        changed = change(_parse(before, str(path)))
        if _read(path) != before:
            raise UserError(f"{path} was changed by somebody else at this moment: nothing was written, try again")
        write_json(path, changed.to_json())
    return changed


def registry_file(where: str | Path) -> Path:
    """The registry's file: `where` itself, or registry.json in the folder `where`."""
    path = Path(where).expanduser()
    return path / FILE if path.is_dir() or path.suffix != ".json" else path


def is_url(where: str | Path) -> bool:
    """Whether `where` is a URL."""
    return str(where).startswith(("https://", "http://"))


def _writable(where: str | Path) -> Path:
    if is_url(where):
        raise UserError(
            f"{where} can only be read: download the file, add to your copy, and send it to whoever keeps the registry"
        )
    return registry_file(where)


def _object(where: str | Path) -> tuple[ObjectFolder, str]:
    """The folder and the name of a registry in an object store."""
    url = url_of(where) if str(where).endswith(".json") else f"{url_of(where)}/{FILE}"
    folder, _, name = url.rpartition("/")
    return ObjectFolder(folder), name


def _read_object(folder: ObjectFolder, name: str) -> bytes:
    text = folder.read(name)
    if text is None:
        raise UserError(f"there is no registry {folder}/{name}: start one with `python -m merge registry new`")
    return text


def _update_object(folder: ObjectFolder, name: str, change: Callable[[Registry], Registry]) -> Registry:
    """Read, change and write under a lease, which admits one writer at a time."""
    until, lease = time.monotonic() + _PATIENCE_OBJECT, None
    while lease is None:
        lease = take_lease(folder, f".{name}", _LEASE)
        if lease is None and time.monotonic() > until:
            raise UserError(f"{folder}/{name} is being written by somebody else: nothing was written, try again")
        time.sleep(0 if lease else 0.2)
    try:
        lease.forget_older()
        changed = change(_parse(_read_object(folder, name), f"{folder}/{name}"))
        folder.write(name, json_bytes(changed.to_json()))
    finally:
        lease.release()
    return changed


def _parse(text: bytes, source: str) -> Registry:
    try:
        value = parse_json(text, source)
    except UserError as error:
        raise UserError(f"{source} cannot be read as a registry ({error})") from error
    return Registry.from_json(value, source)


def _read(path: Path) -> bytes:
    if not os.path.lexists(path):
        raise UserError(f"there is no registry {path}: start one with `python -m merge registry new {path}`")
    return read_text_bytes(path, _LARGEST)


def _fetch(url: str) -> bytes:
    deadline, text = time.monotonic() + _FETCHING, b""
    try:
        # Read in parts: a server that sends single bytes slowly would otherwise keep us waiting for ever.
        with urllib.request.urlopen(url, timeout=_ANSWERING) as answer:
            while len(text) <= _LARGEST and (part := answer.read1(1 << 16)):
                text += part
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it takes longer than {_FETCHING:.0f} seconds")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        shown = str(reason) or type(reason).__name__
        raise UserError(f"cannot fetch {url}: {shown}; check the address, or use a copy of the file") from error
    if len(text) > _LARGEST:
        raise UserError(f"{url} is longer than a registry can be ({_LARGEST >> 20} MB)")
    return text


def _locked(path: Path) -> AbstractContextManager[None]:
    busy = f"{path} is being written by somebody else: nothing was written, try again in a moment"
    return hold_file(path.with_name(f".{path.name}.lock"), busy, _PATIENCE)
