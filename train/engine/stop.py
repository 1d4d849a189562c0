"""A request to stop a training that runs in another thread of this process. It ends as it does after SIGINT."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REQUEST: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


@contextmanager
def stopped_by(request: threading.Event) -> Iterator[None]:
    """Within this context, and in this thread, a training stops after the step in which `request` is set.

    >>> request = threading.Event()
    >>> with stopped_by(request):
    ...     request.set()
    ...     requested_signal() == signal.SIGINT
    True
    """
    token = _REQUEST.set(request)
    try:
        yield
    finally:
        _REQUEST.reset(token)


def requested_signal() -> int:
    """The number of SIGINT if a stop was requested in this context, else 0."""
    request = _REQUEST.get()
    return int(signal.SIGINT) if request is not None and request.is_set() else 0
