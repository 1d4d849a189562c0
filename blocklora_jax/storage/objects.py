"""Folders in object stores, through fsspec."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import import_module
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.storage.address import PACKAGES, url_of

_TIMES = ("LastModified", "updated", "mtime", "created")


class ObjectFolder:
    """A folder of an object store; see `storage.folder.SharedFolder`.

    A file is created only once where the store has conditional writes: Google Cloud Storage, and S3 and what is like it
    since about 2025. Objects appear whole.
    """

    def __init__(self, url: str) -> None:
        self.url = url_of(url)
        self.files = open_store(self.url)
        self._path = self.url.partition("://")[2]

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
        with explained(self.url, "read"):
            self.files.invalidate_cache()
            try:
                return int(self.files.info(self.path(name))["size"])
            except FileNotFoundError:
                return None

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
