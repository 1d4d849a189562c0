"""How fast processes that train shares beside each other get through a study."""

from __future__ import annotations

import resource
import time
from typing import Any

from benchmarks.scale.study import Study


def measure(study: Study, counts: tuple[int, ...], concepts: int, steps: int, at_once: int) -> list[dict[str, Any]]:
    """A row for each number of processes. The first run, which fills the cache of compiled programs, is not counted."""
    _run(study, "warm", 1, at_once)
    rows = []
    for count in counts:
        before = _cpu_seconds()
        seconds = _run(study, f"processes{count}", count, at_once)
        row = {"processes": count, "seconds": seconds, "cpu_seconds": _cpu_seconds() - before}
        rows.append(row | {"concept_steps": concepts * steps / seconds})
    return rows


def _cpu_seconds() -> float:
    """CPU time of all processes that have ended. Other programs on the machine do not change it much."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(study: Study, name: str, count: int, at_once: int) -> float:
    """Seconds until all shares are finished, from the start of the processes."""
    began, out = time.monotonic(), study.folder / name
    flags = [("--at-once", str(at_once), "--shard", f"{i}/{count}") for i in range(count)]
    started = [study.start(out, study.folder / f"{name}.txt", *more) for more in flags]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError((study.folder / f"{name}.txt").read_text()[-2000:])
    return time.monotonic() - began
