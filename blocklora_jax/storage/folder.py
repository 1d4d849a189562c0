"""A folder of small files that several machines write: what claims and records need, and no more."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import temporary_beside, write_atomic

# Error numbers of file systems without hard links, such as some that are mounted over a network.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


@runtime_checkable
class SharedFolder(Protocol):
    """A folder of files, by name. `name` may have slashes. All methods raise UserError if the folder cannot be used."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a new file; False if there is one of that name. Of several writers only one gets True."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file. Readers see the old content or the new one."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        ...

    def names(self) -> list[str]:
        """The names of the files directly in the folder, sorted."""
        ...

    def age(self, name: str) -> float | None:
        """Seconds since a file was written, by the clock of the store; None if there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


class LocalFolder:
    """A folder of a local or mounted file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def create(self, name: str, data: bytes) -> bool:
        """See `SharedFolder`. A hard link appears with its whole content, and only one of several is made."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(path) as temporary:
                temporary.write_bytes(data)
                return _link(temporary, path, data)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, name: str, data: bytes) -> None:
        """See `SharedFolder`."""
        write_atomic(self.path / name, data)

    def read(self, name: str) -> bytes | None:
        """See `SharedFolder`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"cannot read {self.path / name}: {error.strerror or error}") from error

    def names(self) -> list[str]:
        """See `SharedFolder`."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error

    def age(self, name: str) -> float | None:
        """See `SharedFolder`. A file that is written now tells the time of the machine that holds the files."""
        path = self.path / name
        probe = path.with_name(f".clock-{secrets.token_hex(8)}")
        try:
            written = path.stat().st_mtime
            probe.write_bytes(b"")
            return max(probe.stat().st_mtime - written, 0.0)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"cannot write in {path.parent}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                probe.unlink()

    def remove(self, name: str) -> None:
        """See `SharedFolder`."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {self.path / name}: {error.strerror or error}") from error


def _link(temporary: Path, path: Path, data: bytes) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_directly(path, data)
    return True


def _create_directly(path: Path, data: bytes) -> bool:
    """Without links, the name exists before its content does. Readers of leases take that for a holder at work."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True
