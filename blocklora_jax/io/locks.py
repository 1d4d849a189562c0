"""A lock on a folder or file for one process at a time. The operating system frees it when the process ends."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from blocklora_jax.errors import UserError

FOLDER_LOCK = ".lock"
# Error numbers of file systems that have no locks, such as NFS without its lock service.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


@contextmanager
def hold(folder: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder. A missing folder is made, and removed at the end if it is still empty.

    Args:
        folder: the folder to lock.
        what: what the holder does, for the message: "training in".
        patience: how long to wait for another holder, in seconds.

    Raises:
        UserError: another process (or thread) holds the lock, or nothing can be written in the folder.
    """
    made = _make_folder(folder)
    busy = f"another process is {what} {folder}: wait for it, or choose another --out"
    try:
        with hold_file(folder / FOLDER_LOCK, busy, patience):
            yield
    finally:
        for each in made:
            with suppress(OSError):  # It is not empty.
                each.rmdir()


@contextmanager
def hold_file(lock: Path, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `lock`, which is removed at the end. A lock that a killed process left behind is taken over.

    If the file system has no locks, the existence of the file is the lock. `filelock` records the holder in it, so that
    the lock of a dead process is taken over here too.

    Raises: UserError with the message `busy` if another process holds the lock for longer than `patience` seconds, and
        UserError if the file cannot be made.
    """
    try:
        taken = _acquire(lock, patience)
    except (filelock.Timeout, RuntimeError) as error:  # RuntimeError if this same thread holds the lock.
        raise UserError(busy) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write in {lock.parent}: {reason}; choose another place") from error
    try:
        yield
    finally:
        # Removed while the lock is held: afterwards the file may belong to another process.
        with suppress(OSError):
            lock.unlink()
        taken.release()


def _acquire(lock: Path, patience: float) -> filelock.BaseFileLock:
    try:
        # filelock warns if it falls back to the existence of the file by itself.
        with warnings.catch_warnings(action="ignore"):
            taken = filelock.FileLock(lock, timeout=patience, thread_local=False)
            taken.acquire(poll_interval=0.02)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        taken = filelock.SoftFileLock(lock, timeout=patience, thread_local=False)
        taken.acquire(poll_interval=0.02)
    return taken


def _make_folder(folder: Path) -> list[Path]:
    """Make `folder` and its parents. Gives the folders that were made, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        in_the_way = next((each for each in (folder, *folder.parents) if each.exists() and not each.is_dir()), None)
        reason = f"{in_the_way} is a file" if in_the_way else error.strerror or error
        raise UserError(f"cannot write in {folder}: {reason}; choose another place") from error
    return missing
