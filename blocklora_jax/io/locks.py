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
# What file systems without locks answer; NFS without its lock service is one.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


@contextmanager
def hold(folder: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there and removed again if nothing was put into it.

    Args:
        folder: what the lock is on.
        what: what the holder does, for the message: "training in".
        patience: how long to wait for another holder, in seconds.

    Raises:
        UserError: another process (or thread) holds it, or nothing can be written there.
    """
    made = _make_folder(folder)
    busy = f"another process is {what} {folder}: wait for it, or choose another --out"
    try:
        with hold_file(folder / FOLDER_LOCK, busy, patience):
            yield
    finally:
        for each in made:
            with suppress(OSError):  # Something was put into it.
                each.rmdir()


@contextmanager
def hold_file(lock: Path, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `lock`, which is removed at the end; one that a killed process left behind is taken over.

    Where the file system knows no locks, the file's being there is the lock, as far as `filelock` can do it: it records
    the holder, so that one of a process that is gone is taken over too.

    Raises: UserError with the message `busy` if somebody else holds it longer than `patience` seconds, or if the file
        cannot be made.
    """
    try:
        taken = _acquire(lock, patience)
    except (filelock.Timeout, RuntimeError) as error:  # The latter where this very thread holds it.
        raise UserError(busy) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write in {lock.parent}: {reason}; choose another place") from error
    try:
        yield
    finally:
        # While it is held: afterwards it may be another's.
        with suppress(OSError):
            lock.unlink()
        taken.release()


def _acquire(lock: Path, patience: float) -> filelock.BaseFileLock:
    try:
        # filelock warns in its own words where it takes the second way by itself.
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
    """Make `folder`; returns those that were not there, innermost first."""
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
