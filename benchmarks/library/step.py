"""Runs one command in a process of its own, and measures its seconds and the memory that it fills."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_INTERVAL = 0.02  # seconds


class Step(NamedTuple):
    """A command that ran. cpu: seconds of all its threads. peak: MiB at most; anonymous: without pages of files, which
    the system may drop.
    """

    name: str
    seconds: float
    cpu: float
    peak: float
    anonymous: float
    code: int
    output: str


def run_step(name: str, args: Sequence[str]) -> Step:
    """Run `python -m args…` in the current folder."""
    began, before = time.perf_counter(), _children()
    process = subprocess.Popen(
        [sys.executable, "-m", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peaks = {"RssAnon": 0, "VmRSS": 0}
    watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    seconds = time.perf_counter() - began
    return Step(
        name, seconds, _children() - before, peaks["VmRSS"] / 1024, peaks["RssAnon"] / 1024, process.returncode, output
    )


def _children() -> float:
    """CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _watch(process: subprocess.Popen, peaks: dict[str, int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            return
        for name in peaks:
            if name in lines:
                peaks[name] = max(peaks[name], int(lines[name].split()[0]))
        time.sleep(_INTERVAL)
