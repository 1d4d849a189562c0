"""The right to work on something that several machines share, for as long as it is renewed.

A lease is a file `<name>.<generation>.json`. Whoever creates a generation holds the lease. A later generation is made
only if the holder of the last one released it, is known to be dead, or did not renew it for `seconds`. So no locks are
needed: the store only has to let one of several writers create a file.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import is_dead_here, machine_id
from blocklora_jax.storage.folder import SharedFolder

# How often a lease is renewed while it lasts. Two renewals may fail before others take it.
RENEWALS = 4


class Lease:
    """A lease that this process holds; `take_lease` makes it. As a context it is renewed by a thread."""

    def __init__(self, folder: SharedFolder, name: str, generation: int, seconds: float) -> None:
        self._folder, self._name, self._generation, self._seconds = folder, name, generation, seconds
        self._over = threading.Event()
        self._renewed = time.monotonic()

    @property
    def taken_over(self) -> bool:
        """Whether another process held it before."""
        return self._generation > 0

    @property
    def is_released(self) -> bool:
        """Whether this process has released it."""
        return self._over.is_set()

    def is_held(self) -> bool:
        """Renew the lease. False if it is lost: another process took it, or it could not be renewed for too long."""
        try:
            held = _newest(self._folder, self._name) == self._generation
            if held:
                self._folder.write(_file(self._name, self._generation), _record("held"))
                self._renewed = time.monotonic()
        except UserError:
            # A short failure of the store is no loss yet.
            held = time.monotonic() - self._renewed < self._seconds
        return held

    def release(self, note: str = "") -> None:
        """Let others take it at once. note: why, for people and for `last_note`."""
        self._over.set()
        if _newest(self._folder, self._name) == self._generation:
            self._folder.write(_file(self._name, self._generation), _record("released", note))

    def forget_older(self) -> None:
        """Remove older generations, so that their number stays small. Only where listings are never out of date.

        That is so in object stores, but not on network file systems, which keep listings for a while.
        """
        for generation in _generations(self._folder, self._name):
            if generation < self._generation:
                self._folder.remove(_file(self._name, generation))

    def renew_until_released(self, when_lost: Callable[[], None]) -> None:
        """Start a thread that renews the lease. It calls `when_lost` if the lease is lost."""

        def renew() -> None:
            while not self._over.wait(self._seconds / RENEWALS):
                if not self.is_held() and not self._over.is_set():
                    when_lost()
                    return

        threading.Thread(target=renew, daemon=True, name=f"lease {self._name}").start()


def take_lease(folder: SharedFolder, name: str, seconds: float) -> Lease | None:
    """The lease of `name`; None if another process holds it.

    seconds: how long the holder may be silent before others take the lease.
    """
    newest = _newest(folder, name)
    if newest is not None and not _is_free(folder, name, newest, seconds):
        return None
    generation = 0 if newest is None else newest + 1
    if not folder.create(_file(name, generation), _record("held")):
        return None
    if _newest(folder, name) != generation:
        # Others went on since, and removed older generations (`forget_older`).
        folder.remove(_file(name, generation))
        return None
    return Lease(folder, name, generation, seconds)


def last_note(folder: SharedFolder, name: str) -> str:
    """The note with which the lease was released; "" if it is held, or was never taken."""
    newest = _newest(folder, name)
    record = None if newest is None else _read(folder, name, newest)
    return str(record["note"]) if record and record.get("state") == "released" else ""


def _is_free(folder: SharedFolder, name: str, generation: int, seconds: float) -> bool:
    record = _read(folder, name, generation)
    if record and record.get("state") == "released":
        return True
    if record and record.get("machine") == _machine() and is_dead_here(record.get("process")):
        return True
    age = folder.age(_file(name, generation))
    return age is not None and age > seconds


def _read(folder: SharedFolder, name: str, generation: int) -> dict[str, Any] | None:
    try:
        record = json.loads(folder.read(_file(name, generation)) or b"null")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("note"), str) else None


def _record(state: str, note: str = "") -> bytes:
    record = {
        "state": state, "note": note, "host": socket.gethostname(), "machine": _machine(), "process": os.getpid(),
    }  # fmt: skip
    return (json.dumps(record) + "\n").encode()


@cache
def _machine() -> str:
    """Identifies this machine since it was started: machines can have the same name, and number processes alike."""
    try:
        return f"{machine_id()}-{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return secrets.token_hex(16)


def _file(name: str, generation: int) -> str:
    return f"{name}.{generation}.json"


def _newest(folder: SharedFolder, name: str) -> int | None:
    return max(_generations(folder, name), default=None)


def _generations(folder: SharedFolder, name: str) -> list[int]:
    pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.json")
    return [int(match[1]) for each in folder.names() if (match := pattern.fullmatch(each))]
