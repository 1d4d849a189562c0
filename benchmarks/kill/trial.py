"""One kill: the state before, a command that is killed, the state that it leaves, the restart, and the final state."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.kill.launch import Command, count_compiled, run, start
from benchmarks.kill.state import Findings, State, judge_finished, judge_killed, read_state
from benchmarks.kill.syscalls import Moment, kill_at, list_moments


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command that will be killed. All functions take the folder into which it writes.

    prepare: makes the state before. restart: the command that continues after a kill, None if nothing is left to do.
    units: folders that are replaced as a whole. growing: files to which lines are appended. read: gives the state on
    disk, without what may differ between two runs. check: finds other faults after a kill.
    """

    name: str
    command: Callable[[Path], Command]
    prepare: Callable[[Path], None] = lambda folder: None
    restart: Callable[[Path], Command | None] | None = None
    units: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()
    read: Callable[[Path], dict[str, str]] = read_state
    check: Callable[[Path], Findings] = lambda folder: Findings()


@dataclass
class Counts:
    """A row of the table."""

    name: str
    kills: int = 0
    continued: int = 0
    leftovers: int = 0
    lost: int = 0
    half_written: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, moment: str, findings: Findings) -> None:
        """Count the `findings` of a kill at `moment`."""
        for kind in ("lost", "half_written", "wrong", "leftovers"):
            if names := getattr(findings, kind):
                setattr(self, kind, getattr(self, kind) + len(names))
                self.problems.append(f"{moment}: {kind.replace('_', '-')}: {', '.join(sorted(names)[:4])}")

    @property
    def is_good(self) -> bool:
        """Whether every restart continued, and nothing was lost, half-written, wrong or left over."""
        return self.continued == self.kills and not (self.leftovers or self.lost or self.half_written or self.wrong)


class Trials:
    """Kills of one scenario. `folder` is for all files."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder, self.counts = scenario, folder, Counts(scenario.name)
        folder.mkdir(parents=True)
        self._place, self._kept = folder / "now", folder / "before"
        self._kept.mkdir()
        shutil.copytree(self._kept, self._place)
        scenario.prepare(self._place)
        shutil.rmtree(self._kept)
        shutil.copytree(self._place, self._kept)
        self._before = scenario.read(self._place)
        self._after, self._writing, self._duration = self._run_undisturbed()

    def kill_at_random(self, count: int, rng: np.random.Generator) -> None:
        """`count` kills at random times, three quarters of them while files are written."""
        for _ in range(10 + 3 * count):
            if self.counts.kills >= count:
                break
            if rng.random() < 0.25:
                self.kill_after(rng.uniform(0, self._duration))
            else:
                self._try_writing(rng.uniform(0, self._duration - self._writing))

    def kill_at_calls(self, most: int | None = None) -> None:
        """A kill before every system call that changes the folder, or before `most` such calls, evenly spread."""
        if most == 0:
            return
        self._reset()
        moments = list_moments(self.scenario.command(self._place), self._log("moments"), self._place)
        count = len(moments) if most is None else min(most, len(moments))
        # The middles of equal parts.
        for index in ((np.arange(count) + 0.5) * len(moments) / count).astype(int):
            self._try_call(moments[index])

    def _run_undisturbed(self) -> tuple[State, float, float]:
        """The state after the run, the time of the first written file, and the time of the whole run, in seconds."""
        while True:
            self._reset()
            compiled = count_compiled()
            child = start(self.scenario.command(self._place), self._log("undisturbed"))
            if code := child.wait():
                raise RuntimeError(f"{self.scenario.name} fails without a kill ({code}): {self._said(child)}")
            took = time.time() - child.begun
            # The first run fills the cache of compiled programs, so it takes longer than the runs that will be killed.
            if count_compiled() == compiled:
                break
        times = [path.stat().st_mtime - child.begun for path in self._place.rglob("*")]
        # Files from before the run are older.
        writing = min((when for when in times if 0 < when < took), default=0.0)
        return self.scenario.read(self._place), writing, took

    def kill_after(self, seconds: float) -> None:
        """Kill the command `seconds` after its start."""
        self._reset()
        child = start(self.scenario.command(self._place), self._log("killed"))
        time.sleep(max(child.begun + seconds - time.time(), 0.0))
        child.kill()
        if child.wait() < 0:
            self._judge(f"after {seconds:.3f} s")

    def _try_writing(self, seconds: float) -> None:
        """Kill the command `seconds` after the first change of the folder."""
        self._reset()
        before = set(self._place.rglob("*"))
        child = start(self.scenario.command(self._place), self._log("killed"))
        while child.is_running() and set(self._place.rglob("*")) == before:
            time.sleep(0.001)
        time.sleep(seconds)
        child.kill()
        if child.wait() < 0:
            self._judge(f"{seconds:.3f} s after the first change")

    def _try_call(self, moment: Moment) -> None:
        self._reset()
        if kill_at(self.scenario.command(self._place), self._log("killed"), moment) < 0:
            self._judge(f"before call {moment.number}, {moment.call}")

    def _judge(self, moment: str) -> None:
        scenario, counts = self.scenario, self.counts
        counts.kills += 1
        now = {name: digest for name, digest in scenario.read(self._place).items() if name not in scenario.growing}
        counts.add(moment, judge_killed(self._before, self._after, now, scenario.units))
        counts.add(moment, scenario.check(self._place))
        command = (scenario.restart or scenario.command)(self._place)
        if command and (code := run(command, self._log("restarted"))):
            last = self._log("restarted").read_text().strip().splitlines()[-1:]
            counts.problems.append(f"{moment}: the restart ends with {code}: {' '.join(last)[:300]}")
            return
        counts.continued += 1
        counts.add(moment, judge_finished(self._after, scenario.read(self._place)))

    def _reset(self) -> None:
        shutil.rmtree(self._place)
        shutil.copytree(self._kept, self._place)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def _said(self, child) -> str:
        return child.output.read_text()[-800:]
