"""Time and memory beside PyTorch diffusers and PEFT: `python -m benchmarks.speed [--quick] [--large]`.

Both sides have random weights of the same architecture in fp32, the same threads, and a process each. They take turns,
so that the ratios are right even on a busy machine; that of CPU time is the steadier one. A training step is that of
an ordinary LoRA of rank 16 on the keys and values that read text, with text and latents encoded beforehand; our default
adds erasure and the token side, whose cost `benchmarks.training` measures. Memory is the peak of the whole process,
weights included.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CASES, LARGE, QUICK, Case
from benchmarks.speed.side import MODULES
from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time training steps and sampling beside PyTorch."""

    quick: bool = False
    """The pocket model only, two rounds, to see that all of it runs."""
    large: bool = False
    """Training steps of sd15 and sdxl at 512 px, for their memory: one side after the other, up to 16 GB each."""
    only: str | None = None
    """Only cases whose name contains this."""
    rounds: int = 5
    """Turns of each side."""
    threads: int | None = None
    """Number of cores for both sides; all if not given."""
    out: Path | None = None
    """A JSON file for the results."""

    def __post_init__(self) -> None:
        check_options(self, {"rounds": Bound(1, 10**4), "threads": Bound(1, os.cpu_count() or 1)})

    @property
    def cases(self) -> list[Case]:
        """What is measured."""
        cases = QUICK if self.quick else LARGE if self.large else CASES
        found = [case for case in cases if (self.only or "") in case.name]
        if not found:
            raise UserError(f"--only {self.only!r} is in no name of: {'; '.join(case.name for case in cases)}")
        return found


class Side:
    """A process that does the work of a case on request."""

    def __init__(self, side: str, case: Case) -> None:
        words = [sys.executable, "-m", "benchmarks.speed.side", side, json.dumps(dataclasses.asdict(case))]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._name = f"{side}, {case.name}"
        self.first = self._read()
        self.turns: list[dict[str, Any]] = []

    def take_turn(self) -> None:
        """Do the work once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.turns.append(self._read())

    def end(self) -> None:
        """Stop the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self._name}: the process ended with {self._process.wait()}; its error stands above")
        return json.loads(line)


def measure(case: Case, rounds: int, in_turns: bool = True) -> dict[str, Any]:
    """Medians of both sides, and the ratios of ours to PyTorch's, taken turn by turn.

    in_turns: the sides work by turns; otherwise one ends before the other begins, so that memory holds only one.
    """
    sides = _take_turns(case, rounds) if in_turns else _one_after_the_other(case, rounds)
    row: dict[str, Any] = {"case": case.name}
    for unit in ("seconds", "cpu_seconds"):
        times = {name: [turn[unit] for turn in side.turns] for name, side in sides.items()}
        ratios = [a / b for a, b in zip(times["ours"], times["PyTorch"], strict=True)]
        row[f"{unit}_ratio"] = statistics.median(ratios)
        for name in sides:
            row.setdefault(name, {})[unit] = statistics.median(times[name])
    for name, side in sides.items():
        row[name] |= side.first | {"peak_mib": side.turns[-1]["peak_mib"]}
    return row


def _take_turns(case: Case, rounds: int) -> dict[str, Side]:
    sides = {name: Side(name, case) for name in MODULES}
    for _ in range(rounds):
        for side in sides.values():
            side.take_turn()
    for side in sides.values():
        side.end()
    return sides


def _one_after_the_other(case: Case, rounds: int) -> dict[str, Side]:
    sides = {}
    for name in MODULES:
        side = sides[name] = Side(name, case)
        for _ in range(rounds):
            side.take_turn()
        side.end()
    return sides


def print_row(row: dict[str, Any]) -> None:
    """A line of the table."""
    ours, theirs = row["ours"], row["PyTorch"]
    print(
        f"{row['case']:48s} {ours['seconds']:9.3f} {theirs['seconds']:9.3f} {row['seconds_ratio']:6.2f}"
        f" {row['cpu_seconds_ratio']:6.2f} {ours['peak_mib']:9d} {theirs['peak_mib']:9d}", flush=True,
    )  # fmt: skip


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    cases = options.cases
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)
    print(f"{platform.processor() or platform.machine()}, {len(cores)} threads, fp32")
    print(f"{'':48s} {'ours, s':>9s} {'PyTorch':>9s} {'ratio':>6s} {'of CPU':>6s} {'ours, MiB':>9s} {'PyTorch':>9s}")
    rows = []
    for case in cases:
        rounds = 2 if options.quick else 1 if options.large else options.rounds
        rows.append(measure(case, rounds, in_turns=not options.large))
        print_row(rows[-1])
    report = {"machine": platform.machine(), "threads": len(cores), "rows": rows}
    if options.out:
        write_json(options.out, report)
    print(json.dumps(report))


if __name__ == "__main__":
    run(main)
