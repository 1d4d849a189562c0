"""The hosts of a pod: how they start, and what the other hosts report when one of them dies."""

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

LOST = "another host of the pod ended or cannot be reached: read its output, then start all hosts again with --resume"
# Seconds without a heartbeat after which a host counts as dead. JAX's default is 100.
HEARTBEAT = 30
# Seconds that a host which ends with an error waits for the others. JAX's default is 300.
SHUTDOWN = 20
# Words in the errors of JAX and its transports when another host cannot be reached.
_PEER_IS_GONE = re.compile(
    r"gloo|connection (reset|closed|refused)|socket closed|heartbeat|coordination|barrier|deadline.exceeded|unavailable"
    r"|peer",
    re.IGNORECASE,
)
_kept_alive: list[Any] = []
_printing = threading.Lock()


def join_pod(**how: Any) -> None:
    """Start `jax.distributed`. If one host dies, the others print one line and end.

    how: arguments of `jax.distributed.initialize`.
    """
    waits = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": SHUTDOWN}
    jax.distributed.initialize(**{**waits, **how})
    _print_when_aborted()


@contextmanager
def peers_watched() -> Iterator[None]:
    """If an error in the block comes from the loss of another host, print one line and exit with code 2.

    For commands. An ordinary exit would wait for the dead host and then be aborted.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
        if jax.process_count() == 1 or not _PEER_IS_GONE.search(str(error)):
            raise
        sys.stdout.flush()
        _print_and_exit(0)


def _print_when_aborted() -> None:
    """If one of JAX's threads aborts the process, print one line and exit with 2. JAX aborts when the first host dies.

    The handler is a C function, because abort() ends the process before a Python handler of the signal would run.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_print_and_exit)
    _kept_alive.append(handler)
    system = ctypes.CDLL(None).signal
    system.argtypes, system.restype = [ctypes.c_int, type(handler)], ctypes.c_void_p
    system(signal.SIGABRT, handler)


def _print_and_exit(number: int) -> None:
    # The lock is never released: only the first thread prints the line.
    _printing.acquire()
    os.write(2, f"\nerror: {LOST}\n".encode())
    os._exit(2)
