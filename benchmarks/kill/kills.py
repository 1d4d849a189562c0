"""The table of kills."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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


class Plan(NamedTuple):
    """Kills of a scenario.

    share: its share of the random kills. calls: the number of system calls to kill at; None: all of them. quick: the
    same with --quick; None: the scenario is left out. Kills of a command that runs JAX take seconds each.
    """

    share: int = 2
    calls: int | None = None
    quick: int | None = 2


_PLANS = {
    "training": Plan(4, 16, 0),
    "joint fit, new": Plan(1, 12, None),
    "joint fit, over one": Plan(1, 6, None),
    "single file, new": Plan(quick=None),
    "export, new": Plan(quick=None),
    "registry, new": Plan(quick=None),
}


def measure(
    inputs: Path, folder: Path, count: int, rng: np.random.Generator, quick: bool = False, only: str = ""
) -> bool:
    """Kill all commands, `count` times at random, and print the table; returns whether all rows are good."""
    makers = {name: make for name, make in _makers(inputs, folder).items() if only in name}
    plans = {name: _PLANS.get(name, Plan()) for name in makers}
    plans = {name: plan for name, plan in plans.items() if plan.quick is not None or not quick}
    total = sum(plan.share for plan in plans.values())
    by_calls = is_available()
    rows = []
    for name, plan in plans.items():
        begun, trials = time.monotonic(), makers[name]()
        trials.kill_at_random(max(1, -(-count * plan.share // total)), rng)
        random = trials.counts.kills
        if by_calls:
            trials.kill_at_calls(plan.quick if quick else plan.calls)
        rows.append(trials.counts)
        row = trials.counts
        print(
            f"{name}: {random} at random, {row.kills - random} before a system call, {time.monotonic() - begun:.0f} s; "
            f"{row.continued} continued, {row.lost} lost, {row.half_written} half-written, {row.wrong} wrong",
            flush=True,
        )
    print_table(HEADINGS, [_cells(row) for row in [*rows, _total(rows)]])
    if not by_calls:
        print("strace is not installed or may not trace: kills only at random times, not before system calls")
    print_problems({row.name: row.problems for row in rows})
    return all(row.is_good for row in rows)


def _makers(inputs: Path, folder: Path) -> dict[str, Callable[[], Trials | SeveralWriters]]:
    scenarios = [training_scenario(inputs), *merging_scenarios(inputs), *registering_scenarios()]
    makers: dict[str, Callable[[], Trials | SeveralWriters]] = {
        s.name: lambda s=s, i=i: Trials(s, folder / str(i)) for i, s in enumerate(scenarios)
    }
    return makers | {"registry, several writers": lambda: SeveralWriters(folder / "several")}


def _cells(row: Counts) -> tuple:
    return (row.name, row.kills, row.continued, row.leftovers, row.lost, row.half_written, row.wrong)


def _total(rows: list[Counts]) -> Counts:
    total = Counts("all")
    for name in ("kills", "continued", "leftovers", "lost", "half_written", "wrong"):
        setattr(total, name, sum(getattr(row, name) for row in rows))
    return total
