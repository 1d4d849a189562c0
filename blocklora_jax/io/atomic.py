"""Writes files so that a crash leaves the old file or the new file, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from blocklora_jax.errors import UserError

# Temporary files of this process, to be removed if a signal ends it.
_LIVE: set[Path] = set()
_TEMPORARY = re.compile(r"\.blocklora-[0-9a-f]{8}-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part")
OLD = "old"  # within a temporary folder: the folder that is being replaced


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it, and move it into place. Raises UserError if it cannot be written."""
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Give a file beside `path` to write into; flush it and move it into place when the block ends without an error.

    If `path` is a link, the file that it points to is replaced. Raises UserError if the file cannot be written.
    """
    path = Path(path)
    try:
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "\0" not in str(path):
            raise
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """`value` as indented JSON in UTF-8."""
    return (json.dumps(value, indent=2) + "\n").encode()


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`. If a file or folder of that name is left at the end, it is removed.

    Temporary files that killed processes of this machine left in the same folder are removed first.
    """
    remove_stale(path.parent)
    name = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:8]
    temporary = path.with_name(f".blocklora-{name}-{machine_id()}-{os.getpid()}-{secrets.token_hex(4)}.part")
    _LIVE.add(temporary)
    try:
        yield temporary
    finally:
        _discard(temporary)
        _LIVE.discard(temporary)


def remove_temporaries() -> None:
    """Remove the temporary files of this process. For a process that a signal ends at once."""
    for temporary in list(_LIVE):
        _discard(temporary)


def remove_stale(folder: Path) -> None:
    """Remove temporary files and folders in `folder` whose process is dead."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(".blocklora-")]:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and match[1] == machine_id() and is_dead_here(int(match[2])):
                _discard(Path(entry.path))


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk, if the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        if not temporary.is_dir() or temporary.is_symlink():
            temporary.unlink()
        elif not (temporary / OLD).exists():  # OLD may be the only copy of a folder that was being replaced.
            shutil.rmtree(temporary, ignore_errors=True)


def is_dead_here(process: object) -> bool:
    """Whether no process of this number runs on this machine; False if that cannot be told."""
    if type(process) is not int or process <= 0 or os.name != "posix" or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@cache
def machine_id() -> str:
    """Identifies this machine, and this container on it: the range in which a process number means one process."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
