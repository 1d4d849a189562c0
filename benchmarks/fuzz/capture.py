"""Runs one trial as a command runs: through the runner of commands. All that it prints is captured."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fuzz.trial import Trial
from blocklora_jax.command_line.runner import run


class Ended(NamedTuple):
    """How a trial ended.

    facts: the result of the call, if it returned. code: the exit code. out, err: the printed text. growth: of the peak
    of resident memory, in bytes. altered: what the call changed without being allowed to.
    """

    facts: Any
    code: int
    out: str
    err: str
    seconds: float
    growth: int
    altered: str


def run_trial(trial: Trial) -> Ended:
    """Run the call, catching every exception and all output."""
    got: list[Any] = []
    before, start = _reset_peak(), time.monotonic()
    with _caught() as texts:
        code = _exit_code(trial, got)
    seconds, growth = time.monotonic() - start, _memory("VmHWM") - before
    out, err = texts()
    return Ended(got[0] if got else None, code, out, err, seconds, growth, trial.intact())


def _exit_code(trial: Trial, got: list[Any]) -> int:
    def call() -> None:
        got.append(trial.call())

    try:
        call() if trial.is_command else run(call)
    except SystemExit as stop:
        got.clear()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # The runner should let no exception through. This is what is tested.
        got.clear()
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _caught() -> Iterator[Callable[[], tuple[str, str]]]:
    """Redirect file descriptors 1 and 2 into files, so that the output of C libraries is captured too."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = os.dup(1), os.dup(2)
        _flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        texts: list[str] = []
        try:
            yield lambda: (texts[0], texts[1])
        finally:
            _flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            for file in (out, err):
                file.seek(0)
                texts.append(file.read(1 << 20).decode(errors="replace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, UnicodeError):
            continue


def _reset_peak() -> int:
    """Reset the peak of memory to the present use, if the system can; returns the peak in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _memory("VmHWM")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(f"{name}:")), 0)
