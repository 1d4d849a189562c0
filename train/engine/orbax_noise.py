"""Hides the output of orbax and its threads when they fail. The user gets one line about the failure instead."""

from __future__ import annotations

import functools
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Silence the log of orbax within the block, and what its threads print later if it fails within the block."""
    _silence_remains()
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@functools.cache
def _silence_remains() -> None:
    """From now on, ignore errors of threads whose event loop is closed, and coroutines that were never awaited.

    When one read or write fails, the other ones end later, each with a traceback.
    """
    show = sys.unraisablehook

    def unraisablehook(unraisable: Any) -> None:
        task, error = unraisable.object, unraisable.exc_value
        is_late = isinstance(error, RuntimeError) and "Event loop is closed" in str(error)
        is_dropped = isinstance(task, types.CoroutineType) and "orbax" in task.cr_code.co_filename
        if not (is_late or is_dropped):
            show(unraisable)

    sys.unraisablehook = unraisablehook
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
