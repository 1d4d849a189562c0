"""Says that a program is being compiled, if that takes more than a few seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.monitoring
from tqdm import tqdm

# Seconds of compiling, without tracing, after which the line is printed. A program from the cache takes less.
_PATIENCE = 3.0
# Events of JAX, at the end of each phase. Compiling comes directly after lowering.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compiling_is_announced(what: str, patience: float = _PATIENCE) -> Iterator[None]:
    """If compiling a program takes long within this context, print one line to stderr, on the first host only.

    what: the program, for the line: "the training step".
    """
    notice = _Notice(f"compiling {what}, the first time only …", patience)
    jax.monitoring.register_event_duration_secs_listener(notice.listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(notice.listen)
        notice.stop()


class _Notice:
    """A line that is printed once, `patience` seconds after lowering has ended and if compiling has not."""

    def __init__(self, line: str, patience: float) -> None:
        self._line, self._patience = line, patience
        self._timer: threading.Timer | None = None
        self._is_printed = jax.process_index() > 0

    def listen(self, event: str, duration_secs: float, **_: Any) -> None:
        """Called by JAX at the end of each phase."""
        if event == _LOWERED:
            self.stop()
            self._timer = threading.Timer(self._patience, self._print)
            self._timer.daemon = True
            self._timer.start()
        elif event == _COMPILED:
            self.stop()

    def stop(self) -> None:
        """Print nothing any more, unless another program is lowered."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _print(self) -> None:
        if not self._is_printed:
            self._is_printed = True
            # Not `print`, which would write into a progress bar.
            tqdm.write(self._line, file=sys.stderr)
