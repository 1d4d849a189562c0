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


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of a call, and its seconds: by the clock, and of all cores together."""
    began, cpu_began = time.perf_counter(), time.process_time()
    result = function()
    return result, {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu_began}


def tell(**values: float) -> None:
    """Write a line to the parent. peak_mib: the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(values | {"peak_mib": round(peak)}), flush=True)


def main() -> None:
    """Set up, then work on request."""
    side, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    work, set_up = timed(lambda: importlib.import_module(MODULES[side]).prepare(case))
    tell(set_up=set_up["seconds"], first=timed(work)[1]["seconds"])
    for _ in sys.stdin:
        tell(**timed(work)[1])


if __name__ == "__main__":
    main()
