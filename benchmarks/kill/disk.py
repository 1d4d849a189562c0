"""The table of full disks: every writer runs with no room, and with room for a part of what it writes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.kill.launch import run, start
from benchmarks.kill.lines import new_lines
from benchmarks.kill.report import print_problems, print_table
from benchmarks.kill.scenarios.merging import merging_scenarios
from benchmarks.kill.scenarios.registering import registering_scenarios
from benchmarks.kill.scenarios.training import training_scenario
from benchmarks.kill.scenarios.writers import writer_scenarios
from benchmarks.kill.small_disk import SmallDisk, limit_file_size
from benchmarks.kill.state import judge_finished, judge_killed
from benchmarks.kill.trial import Scenario

HEADINGS = (
    "writer", "disk", "times full", "one line, exit code not 0", "files lost", "half-written", "leftovers",
    "goes on with room",
)  # fmt: skip
# The room, as shares of what is written. Training writes many files, one after the other.
_ROOMS = {"training": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)}
_QUICK = ("training", "merged folder, over one", "export, over one", "registry, one writer")


@dataclass
class Row:
    """The results of one writer."""

    name: str
    disk: str = ""
    full: int = 0
    one_line: int = 0
    lost: int = 0
    half_written: int = 0
    leftovers: int = 0
    continued: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether the writer failed cleanly each time, and could be continued each time."""
        clean = not (self.lost or self.half_written or self.leftovers)
        return self.full > 0 and self.one_line == self.continued == self.full and clean


def measure(inputs: Path, folder: Path, quick: bool = False, only: str = "") -> bool:
    """Fill the disk for every writer and print the table; returns whether all rows are good."""
    scenarios = [
        training_scenario(inputs), *merging_scenarios(inputs), *writer_scenarios(inputs), *registering_scenarios(),
    ]  # fmt: skip
    chosen = [s for s in scenarios if only in s.name and not (quick and s.name not in _QUICK)]
    rows = [_try_writer(scenario, folder / str(i), quick) for i, scenario in enumerate(chosen)]
    print_table(HEADINGS, [_cells(row) for row in rows])
    print_problems({row.name: row.problems for row in rows})
    return all(row.is_good for row in rows)


def _try_writer(scenario: Scenario, folder: Path, quick: bool) -> Row:
    with SmallDisk(folder / "disk") as disk:
        trial = _FullDisk(scenario, folder, disk)
        rooms = (0.5,) if quick else _ROOMS.get(scenario.name, (0.0, 0.3, 0.6))
        # A limit on the size of files replaces the full disk.
        for room in rooms if disk.is_mounted else (0.5,):
            trial.try_room(room)
        return trial.row


class _FullDisk:
    """Runs of one writer on full disks."""

    def __init__(self, scenario: Scenario, folder: Path, disk: SmallDisk) -> None:
        self._scenario, self._folder, self._disk, self._kept = scenario, folder, disk, folder / "before"
        self.row = Row(scenario.name, "4 MB tmpfs" if disk.is_mounted else "RLIMIT_FSIZE")
        disk.place.mkdir()
        scenario.prepare(disk.place)
        shutil.copytree(disk.place, self._kept)
        self._before = scenario.read(disk.place)
        child = start(scenario.command(disk.place), self._log("undisturbed"))
        if code := child.wait():
            raise RuntimeError(f"{scenario.name} fails with room ({code}): {child.output.read_text()[-500:]}")
        self._after, self._usual = scenario.read(disk.place), child.output.read_text()
        # Before anything is replaced, the new files are beside the old ones.
        changed = [p for p in disk.place.rglob("*") if p.is_file() and p.stat().st_mtime > child.begun]
        self._written, self._largest = sum(p.stat().st_size for p in changed), max(p.stat().st_size for p in changed)

    def try_room(self, share: float) -> None:
        """Run with room for `share` of what the writer writes, then with enough room."""
        scenario, row, place, moment = self._scenario, self.row, self._disk.place, f"room for {share:.0%}"
        self._disk.reset(self._kept)
        self._disk.fill(int(share * self._written))
        limit = None if self._disk.is_mounted else partial(limit_file_size, int(share * self._largest))
        code = start(scenario.command(place), log := self._log("full"), limit=limit).wait()
        self._disk.free()
        if code == 0 and not judge_finished(self._after, scenario.read(place)):
            return  # There was enough room, because smaller files replaced larger ones.
        row.full += 1
        self._count_lines(moment, code, log.read_text())
        now = {name: digest for name, digest in scenario.read(place).items() if name not in scenario.growing}
        killed, left = judge_killed(self._before, self._after, now, scenario.units), judge_finished({}, now).leftovers
        row.lost, row.half_written = row.lost + len(killed.lost), row.half_written + len(killed.half_written)
        row.leftovers += len(left)
        for kind, names in (("lost", killed.lost), ("half-written", killed.half_written), ("left over", left)):
            row.problems += [f"{moment}: {kind}: {', '.join(names[:4])}"] if names else []
        self._go_on(moment)

    def _count_lines(self, moment: str, code: int, text: str) -> None:
        lines = new_lines(text, self._usual)
        if code > 0 and len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in text:
            self.row.one_line += 1
            return
        last = lines[-1][:250] if lines else "nothing"
        self.row.problems.append(f"{moment}: exit code {code}, {len(lines)} lines, the last: {last}")

    def _go_on(self, moment: str) -> None:
        scenario, place = self._scenario, self._disk.place
        command = (scenario.restart or scenario.command)(place)
        code = run(command, self._log("restarted")) if command else 0
        findings = judge_finished(self._after, scenario.read(place))
        if code == 0 and not findings:
            self.row.continued += 1
            return
        printed = " ".join(self._log("restarted").read_text().split())[-200:] if code else str(findings)
        self.row.problems.append(f"{moment}: the restart ends with {code}: {printed}")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.txt"


def _cells(row: Row) -> tuple:
    return (
        row.name, row.disk, row.full, row.one_line, row.lost, row.half_written, row.leftovers, row.continued,
    )  # fmt: skip
