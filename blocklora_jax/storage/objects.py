"""Folders in object stores, through fsspec."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.storage.address import PACKAGES, url_of

_TIMES = ("LastModified", "updated", "mtime", "created")
# Files above this size are sent in pieces of this size, a few at once, so that memory is bounded. Google Cloud Storage
# takes multiples of 256 KiB, and S3 at most 10,000 pieces, here 160 GB.
PIECE = 16 << 20
_IN_PIECES = {"gs": {"chunksize": PIECE}, "s3": {"chunksize": PIECE, "max_concurrency": 4}}
# How they are fetched; others send small pieces one by one.
_FETCHED_IN_PIECES = {"s3": _IN_PIECES["s3"]}


class ObjectFolder:
    """A folder of an object store; see `storage.folder.SharedFolder`.

    A file is created only once where the store has conditional writes: Google Cloud Storage, and S3 and what is like it
    since about 2025. Objects appear whole.
    """

    def __init__(self, url: str) -> None:
        self.url = url_of(url)
        self.files = open_store(self.url)
        self.protocol, _, self._path = self.url.partition("://")

    def __str__(self) -> str:
        return self.url

    def path(self, name: str) -> str:
        """The name of a file for fsspec."""
        return f"{self._path}/{name}"

    def create(self, name: str, data: bytes) -> bool:
        """See `SharedFolder`."""
        with explained(self.url, "write"):
            try:
                self.files.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if _is_taken(error):
                    return False
                raise
            return True

    def write(self, name: str, data: bytes) -> None:
        """See `SharedFolder`."""
        with explained(self.url, "write"):
            self.files.pipe_file(self.path(name), data)

    def upload(self, name: str, file: Path, new: bool = False) -> bool:
        """Write a file of this machine, of any size. new: as in `create`, False if there is one of that name.

        Raises: UserError if it cannot be written; FileNotFoundError if `file` is not there.
        """
        if file.stat().st_size <= PIECE:
            data = file.read_bytes()
            return self.create(name, data) if new else self.write(name, data) or True
        with explained(f"{self.url}/{name}", "write"):
            mode, settings = "create" if new else "overwrite", _IN_PIECES.get(self.protocol, {})
            try:
                self.files.put_file(str(file), self.path(name), mode=mode, **settings)
            except Exception as error:
                if new and (isinstance(error, FileExistsError) or _is_taken(error)):
                    return False
                raise
        return True

    def fetch(self, name: str, file: Path) -> None:
        """Copy a file of any size to this machine. Raises: UserError if it cannot be read."""
        with explained(self.url, "read"):
            self.files.get_file(self.path(name), str(file), **_FETCHED_IN_PIECES.get(self.protocol, {}))

    def info(self, name: str) -> dict[str, Any] | None:
        """What the store knows of a file; None if there is no file of that name."""
        with explained(self.url, "read"):
            self.files.invalidate_cache()
            try:
                found = self.files.info(self.path(name))
            except FileNotFoundError:
                return None
        return found if found.get("type") == "file" else None

    def read(self, name: str) -> bytes | None:
        """See `SharedFolder`."""
        with explained(self.url, "read"):
            try:
                return self.files.cat_file(self.path(name))
            except FileNotFoundError:
                return None

    def names(self) -> list[str]:
        """See `SharedFolder`."""
        return sorted(name for name in list_files(self) if "/" not in name)

    def age(self, name: str) -> float | None:
        """See `SharedFolder`. An object that is written now tells the time of the store."""
        probe = f".clock-{secrets.token_hex(8)}"
        with explained(self.url, "write"):
            written = self._time(name)
            if written is None:
                return None
            self.files.pipe_file(self.path(probe), b"")
            now = self._time(probe)
            with suppress(FileNotFoundError):
                self.files.rm_file(self.path(probe))
            return max(now - written, 0.0) if now is not None else None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        found = self.info(name)
        return None if found is None else int(found["size"])

    def remove(self, name: str) -> None:
        """See `SharedFolder`."""
        with explained(self.url, "write"), suppress(FileNotFoundError):
            self.files.rm_file(self.path(name))

    def _time(self, name: str) -> float | None:
        self.files.invalidate_cache()
        try:
            info = self.files.info(self.path(name))
        except FileNotFoundError:
            return None
        return _seconds(info)


def open_store(url: str) -> Any:
    """fsspec's file system for an address. Raises: UserError if its package is not installed."""
    protocol = url.partition("://")[0]
    try:
        import_module(PACKAGES[protocol])
        import fsspec
    except ImportError as error:
        raise UserError(
            f"{protocol}:// addresses need {PACKAGES[protocol]}: pip install 'blocklora_jax[{protocol}]'"
        ) from error
    with explained(url, "open"):
        return fsspec.filesystem(protocol)


def list_files(folder: ObjectFolder) -> dict[str, dict[str, Any]]:
    """What the store knows of every file below a folder, by its name in it."""
    with explained(folder.url, "read"):
        folder.files.invalidate_cache()
        found = folder.files.find(folder.path("").rstrip("/"), detail=True)
    start = folder.path("").lstrip("/")
    return {
        path.lstrip("/").removeprefix(start): info
        for path, info in found.items()
        if path.lstrip("/").startswith(start) and not path.endswith("/")
    }


def list_names(folder: ObjectFolder) -> list[str]:
    """The names of the files and folders directly in a folder, sorted."""
    with explained(folder.url, "read"):
        folder.files.invalidate_cache()
        try:
            found = folder.files.ls(folder.path("").rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
    return sorted({path.rstrip("/").rpartition("/")[2] for path in found})


@contextmanager
def explained(url: str, verb: str) -> Iterator[None]:
    """Raises one UserError for whatever goes wrong in the block with the store."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Every store has errors of its own.
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot {verb} {url}: {words}; check the address, the network and your rights") from error


def _is_taken(error: Exception) -> bool:
    """Whether a conditional write failed because the object exists."""
    text = f"{type(error).__name__} {error} {error.__cause__ or ''}"
    return any(mark in text for mark in ("PreconditionFailed", "412", "ConditionalRequestConflict", "FileExists"))


def _seconds(info: dict[str, Any]) -> float | None:
    value = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else value
