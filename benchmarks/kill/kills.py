"""The table of kills."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.kill.report import print_problems, print_table
from benchmarks.kill.scenarios.merging import merging_scenarios
from benchmarks.kill.scenarios.registering import SeveralWriters, registering_scenarios
from benchmarks.kill.scenarios.training import training_scenario
from benchmarks.kill.syscalls import is_available
from benchmarks.kill.trial import Counts, Trials

HEADINGS = (
    "scenario", "kills", "restarts that continued", "leftovers", "files lost", "half-written", "wrong results",
)  # fmt: skip
# Shares of the random kills, and kills before system calls (all of them if None). What runs JAX takes seconds a kill.
_SHARES = {"training": 4, "joint fit, new": 1, "joint fit, over one": 1}
_CALLS = {"training": 16, "joint fit, new": 8, "joint fit, over one": 6}
_QUICK_CALLS = {"training": 1, "joint fit, new": 0, "joint fit, over one": 1}


def measure(
    inputs: Path, folder: Path, count: int, rng: np.random.Generator, quick: bool = False, only: str = ""
) -> bool:
    """Kill everything, `count` times at random; print the table; gives whether all is well."""
    makers = {name: make for name, make in _makers(inputs, folder).items() if only in name}
    total = sum(_SHARES.get(name, 2) for name in makers)
    by_calls = is_available()
    rows = []
    for name, make in makers.items():
        begun, trials = time.monotonic(), make()
        trials.kill_at_random(max(1, round(count * _SHARES.get(name, 2) / total)), rng)
        random = trials.counts.kills
        if by_calls:
            trials.kill_at_calls(_QUICK_CALLS.get(name, 3) if quick else _CALLS.get(name))
        rows.append(trials.counts)
        print(f"{name}: {random} at random, {trials.counts.kills - random} before a system call, "
              f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    print_table(HEADINGS, [_cells(row) for row in [*rows, _total(rows)]])
    if not by_calls:
        print("strace is not here, or may not trace: no kills before system calls, only at random times")
    print_problems({row.name: row.problems for row in rows})
    return all(row.is_good for row in rows)


def _makers(inputs: Path, folder: Path) -> dict[str, Callable[[], Trials | SeveralWriters]]:
    scenarios = [training_scenario(inputs), *merging_scenarios(inputs), *registering_scenarios()]
    found: dict[str, Callable[[], Trials | SeveralWriters]] = {
        s.name: lambda s=s, i=i: Trials(s, folder / str(i)) for i, s in enumerate(scenarios)
    }
    return found | {"registry, several writers": lambda: SeveralWriters(folder / "several")}


def _cells(row: Counts) -> tuple:
    return (row.name, row.kills, row.continued, row.leftovers, row.lost, row.half_written, row.wrong)


def _total(rows: list[Counts]) -> Counts:
    names = ("kills", "continued", "leftovers", "lost", "half_written", "wrong")
    return Counts("all", **{name: sum(getattr(row, name) for row in rows) for name in names})
