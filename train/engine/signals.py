"""SIGINT and SIGTERM while training: the first one stops the loop after the step, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_STOPS = (signal.SIGTERM, signal.SIGINT)
# If stopping takes longer than this, a line is printed, in seconds.
_PATIENCE = 1.0
# Time for Python to handle the second signal, in seconds. Compiled code may block Python.
_GRACE = 2.0


class CatchSignals:
    """Remembers the first SIGTERM or SIGINT; a second one ends the process at once.

    Python runs signal handlers only between its own instructions, but XLA may compile for minutes. So a separate thread
    also receives the signals. It prints a line, and ends the process if Python does not.
    """

    signal: int = 0

    def __enter__(self) -> CatchSignals:
        self._old: dict[int, Any] = {}
        self._reader, self._heard, self._is_over = None, 0, threading.Event()
        # Only the main thread may set handlers. In other threads signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            self._old = {int(stop): signal.signal(stop, self._remember) for stop in _STOPS}
            self._listen()
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._is_over.set()
        if self._reader is not None:
            signal.set_wakeup_fd(self._before)
            # The thread ends when it reads the end of the pipe.
            os.close(self._writer)
            self._thread.join()
            os.close(self._reader)

    def _remember(self, number: int, frame: object) -> None:
        if self.signal:
            for stop in self._old:
                signal.signal(stop, self._old[stop])
            signal.raise_signal(number)
        self.signal = number

    def _listen(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while number := int.from_bytes(os.read(self._reader, 1) if self._reader is not None else b""):
            if number not in self._old:
                continue
            self._heard += 1
            if self._heard == 1:
                _later(_PATIENCE, lambda number=number: self._say(number))
            elif self._heard == 2 and not _is_interactive():
                _later(_GRACE, lambda number=number: self._is_over.is_set() or os._exit(128 + number))

    def _say(self, number: int) -> None:
        if not self._is_over.is_set() and self._heard == 1:
            name = signal.Signals(number).name
            print(f"\n{name}: saving after this step; send it once more to stop at once", file=sys.stderr, flush=True)


def _later(seconds: float, action: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _is_interactive() -> bool:
    """Whether the process is a notebook or an interactive console, which must not end with the training."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules
