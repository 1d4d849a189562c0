"""The table of signals: SIGINT and SIGTERM at moments from the first import of our modules to the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.kill.inputs import ADA, BOB, MODEL
from benchmarks.kill.launch import Command, count_compiled
from benchmarks.kill.lines import new_lines
from benchmarks.kill.report import print_problems, print_table
from benchmarks.kill.scenarios.training import RUN, read_run, training_command
from benchmarks.kill.state import is_temporary, judge_finished, judge_killed, read_state

HEADINGS = ("command", "signals", "130 or 143, and one line", "done before it came", "half-written or left over")
ROOT = Path(__file__).parents[2]
# Python imports this before anything else. It closes a pipe when the first of our modules is imported. Before that,
# our code cannot handle a signal.
CUSTOMIZE = """
import os, sys
def hook(event, args):
    if event == "import" and args[0].partition(".")[0] in ("train", "merge", "blocklora_jax") and pipe:
        os.close(pipe.pop())
pipe = [int(os.environ["KILL_PIPE"])]
sys.addaudithook(hook)
"""
# The training loop prints one line when a signal comes, and one when it has stopped. The first line is not counted.
NOTICE = "saving after this step"
# Seconds until the code of the first module runs after its import has begun.
FIRST = 0.02
STARTING = 2.0  # seconds for all imports


@dataclass
class Row:
    """The results of one command."""

    name: str
    signals: int = 0
    clean: int = 0
    too_late: int = 0
    broken: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every signal ended the command cleanly, or came after the command had ended."""
        return self.clean + self.too_late == self.signals and not self.broken


def measure(inputs: Path, folder: Path, count: int, rng: np.random.Generator, only: str = "") -> bool:
    """Send `count` signals to each command and print the table; returns whether all rows are good."""
    ada, bob, model = (str(inputs / name) for name in (ADA, BOB, MODEL))

    def merging(place: Path) -> Command:
        return Command("merge", (ada, bob, "--model", model, "--save", str(place / "merged")))

    commands = {
        "train.concept": (lambda place: training_command(inputs, place / RUN), read_run, ()),
        "merge --save": (merging, read_state, ("merged",)),
        "merge export": (lambda place: _export(place, ada, bob), read_state, ()),
    }
    rows = []
    for index, (name, (make, read, units)) in enumerate(commands.items()):
        if only in name:
            # Exporting takes only a second, so this row tests start-up.
            trial = _Signals(name, make, read, units, folder / str(index))
            trial.send(count if index < 2 else max(count // 4, 2), rng)
            rows.append(trial.row)
    print_table(HEADINGS, [(row.name, row.signals, row.clean, row.too_late, row.broken) for row in rows])
    print_problems({row.name: row.problems for row in rows})
    return all(row.is_good for row in rows)


class _Signals:
    """Signals to one command."""

    def __init__(self, name: str, make: Callable[[Path], Command], read, units: tuple[str, ...], folder: Path) -> None:
        self.row, self._make, self._read, self._units = Row(name), make, read, units
        self._place, self._log = folder / "now", folder / "output.txt"
        self._customize = folder / "customize"
        self._customize.mkdir(parents=True)
        (self._customize / "sitecustomize.py").write_text(CUSTOMIZE)
        while True:
            compiled = count_compiled()
            code, self._duration = self._run(None, 0.0)
            if code:
                raise RuntimeError(f"{name} fails without a signal ({code}): {self._log.read_text()[-500:]}")
            # The first run fills the cache of compiled programs, so it takes longer than the runs that will be stopped.
            if count_compiled() == compiled:
                break
        self._after, self._usual = read(self._place), self._log.read_text()

    def send(self, count: int, rng: np.random.Generator) -> None:
        """Send `count` signals, a third of them while the program starts, the others evenly over its run time."""
        early = count // 3
        times = [FIRST + rng.uniform(i, i + 1) * STARTING / max(early, 1) for i in range(early)]
        rest = count - early
        times += [FIRST + rng.uniform(i, i + 1) * self._duration / rest for i in range(rest)]
        for index, seconds in enumerate(times):
            self._try(signal.SIGINT if index % 2 else signal.SIGTERM, seconds)

    def _try(self, number: signal.Signals, seconds: float) -> None:
        code, _ = self._run(number, seconds)
        row, text, moment = self.row, self._log.read_text(), f"{number.name} after {seconds:.2f} s"
        row.signals += 1
        now = self._read(self._place)
        if code == 0 and not judge_finished(self._after, now):
            row.too_late += 1
            return
        lines = [line for line in new_lines(text, self._usual) if NOTICE not in line]
        if code == 128 + number and len(lines) == 1 and "Traceback" not in text:
            row.clean += 1
        else:
            stage = "before its end" if judge_finished(self._after, now) else "with all files written"
            printed = " / ".join(lines)[-300:] or "nothing"
            row.problems.append(f"{moment}, {stage}: exit code {code}, {len(lines)} lines: {printed}")
        # Lines are appended to the metrics during the run.
        whole = {name: digest for name, digest in now.items() if not name.endswith("metrics.jsonl")}
        wrong = judge_killed({}, self._after, whole, self._units).half_written
        if wrong := [*wrong, *(name for name in now if is_temporary(name))]:
            row.broken += 1
            row.problems.append(f"{moment}: half-written or left over: {', '.join(wrong[:4])}")

    def _run(self, number: signal.Signals | None, seconds: float) -> tuple[int, float]:
        """Run the command and send it a signal; returns its exit code and its time from the first import on."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir()
        command = self._make(self._place)
        reader, writer = os.pipe()
        with self._log.open("w") as log:
            # Its own process group, so that Ctrl-C at the terminal does not reach it.
            child = subprocess.Popen(
                [sys.executable, "-m", command.module, *command.args], cwd=ROOT, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(self._customize), "KILL_PIPE": str(writer)},
                pass_fds=[writer], start_new_session=True,
            )  # fmt: skip
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        begun = time.monotonic()
        if number is not None:
            time.sleep(seconds)
            child.send_signal(number)
        try:
            return child.wait(120), time.monotonic() - begun
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait(), time.monotonic() - begun


def _export(place: Path, *files: str) -> Command:
    return Command("merge", ("export", *files, "--out", str(place / "lora.safetensors")))
