"""The hosts of a pod: starting together, and what the others say when one of them dies."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

LOST = (
    "another host of the pod ended or cannot be reached: see what it said, then start all of them again with --resume"
)
# How long a host may be silent before it counts as dead, in seconds; JAX's own 100 are long to wait for.
HEARTBEAT = 30
# How long one that ends with an error waits for the others, which know nothing of it yet; JAX's own 300 likewise.
SHUTDOWN = 20
# What JAX and its transports say when a peer is gone.
_PEER_IS_GONE = re.compile(
    r"gloo|connection (reset|closed|refused)|socket closed|heartbeat|coordination|barrier|deadline.exceeded|unavailable|peer",
    re.IGNORECASE,
)
_kept_alive: list[Any] = []
_speaking = threading.Lock()


def join_pod(**how: Any) -> None:
    """Start `jax.distributed`, so that the death of one host ends the others with one line. `how`: as for `initialize`."""
    waits = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": SHUTDOWN}
    jax.distributed.initialize(**{**waits, **how})
    _speak_when_aborted()


@contextmanager
def peers_watched() -> Iterator[None]:
    """Where something is raised because another host is gone, say so in one line and end with exit code 2.

    For command lines. To leave in the usual way would be to wait for the dead host, and to be aborted for it.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
        if jax.process_count() == 1 or not _PEER_IS_GONE.search(str(error)):
            raise
        sys.stdout.flush()
        _last_words(0)


def _speak_when_aborted() -> None:
    """Say one line and exit with 2 if JAX aborts the process from a thread of its own, as it does when the first host dies.

    Python's own handlers run too late for that: abort() ends the process when they return to it.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_last_words)
    _kept_alive.append(handler)
    system = ctypes.CDLL(None).signal
    system.argtypes, system.restype = [ctypes.c_int, type(handler)], ctypes.c_void_p
    system(signal.SIGABRT, handler)


def _last_words(number: int) -> None:
    # Never given back: whoever comes second has nothing to add.
    _speaking.acquire()
    os.write(2, f"\nerror: {LOST}\n".encode())
    os._exit(2)
