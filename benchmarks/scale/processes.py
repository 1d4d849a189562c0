"""How fast processes that train shares beside each other get through a study."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.scale.study import Study


def measure(study: Study, counts: tuple[int, ...], concepts: int, steps: int, at_once: int) -> list[dict[str, Any]]:
    """A row for each number of processes. The first run, which fills the cache of compiled programs, is not counted."""
    _run(study, "warm", 1, at_once)
    rows = []
    for count in counts:
        seconds = _run(study, f"processes{count}", count, at_once)
        rows.append({"processes": count, "seconds": seconds, "concept_steps": concepts * steps / seconds})
    return rows


def _run(study: Study, name: str, count: int, at_once: int) -> float:
    """Seconds until all shares are finished, from the start of the processes."""
    began, out = time.monotonic(), study.folder / name
    flags = [("--at-once", str(at_once), "--shard", f"{i}/{count}") for i in range(count)]
    started = [study.start(out, study.folder / f"{name}.txt", *more) for more in flags]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError((study.folder / f"{name}.txt").read_text()[-2000:])
    return time.monotonic() - began
