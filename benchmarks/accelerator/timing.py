"""Median times of calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

# Seconds that a measurement may take, and the fewest and the most rounds.
_SECONDS, _FEWEST, _MOST = 2.0, 2, 30


def median_seconds(
    call: Callable[[], object], wait: Callable[[], object], calls: int = 1, most: float = _SECONDS
) -> float:
    """The median time of a call, over rounds of `calls` calls without waiting between them. wait: for all of them.

    The first round is not counted. most: seconds for all rounds, if they are more than the fewest.
    """
    times: list[float] = []
    until = time.perf_counter() + most
    while len(times) <= _FEWEST or (time.perf_counter() < until and len(times) < _MOST):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        times.append((time.perf_counter() - began) / calls)
    return statistics.median(times[1:])
