"""One side of a case in its own process: `python -m benchmarks.speed.side SIDE CASE`, with the case as JSON.

After the set-up and a first call it writes a line of JSON. For every line on its input it does the work once and writes
a line with the seconds and the peak memory. It ends with its input.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.speed.cases import Case

MODULES = {"ours": "benchmarks.speed.ours", "PyTorch": "benchmarks.speed.theirs"}


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the seconds of a call."""
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def tell(**values: float) -> None:
    """Write a line to the parent. peak_mib: the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(values | {"peak_mib": round(peak)}), flush=True)


def main() -> None:
    """Set up, then work on request."""
    side, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    work, set_up = timed(lambda: importlib.import_module(MODULES[side]).prepare(case))
    tell(set_up=round(set_up, 2), first=round(timed(work)[1], 2))
    for _ in sys.stdin:
        tell(seconds=timed(work)[1])


if __name__ == "__main__":
    main()
