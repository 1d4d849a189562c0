"""Machines that train shares are killed at random and started again. Nothing may be lost, or trained twice."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.scale.study import Study, read_adapters

_LONGEST = 900.0  # seconds for all


class Killed(NamedTuple):
    """What happened: kills, and concepts that are lost, were finished twice, or differ from those of one machine."""

    kills: int
    concepts: int
    lost: int
    twice: int
    different: int
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every concept was trained once, to the same bytes."""
        return not (self.lost or self.twice or self.different)

    def __str__(self) -> str:
        return (
            f"{self.concepts} concepts, {self.kills} kills: {self.lost} lost, {self.twice} twice, {self.different} "
            f"different from one machine's; {self.seconds:.0f} s"
        )


def kill_machines(study: Study, machines: int, kills: int, seed: int = 0) -> Killed:
    """Train the study on so many machines (processes), and kill one of them at random `kills` times.

    Each is started again, as a cluster does. The result is compared with that of one machine.
    """
    reference = train_alone(study, study.folder / "alone")
    out, began, chance = study.folder / "killed", time.monotonic(), random.Random(seed)
    logs = [study.folder / f"machine{i}.txt" for i in range(machines)]
    flags = [("--at-once", "1", "--shard", f"{i}/{machines}", "--wait", "--lease", "20") for i in range(machines)]
    running = [study.start(out, log, *more) for log, more in zip(logs, flags, strict=True)]
    for done in range(kills):
        # Most of the time the processes only start. They are killed while one of them trains.
        _wait_for_change(out, reference, 2 * done)
        time.sleep(chance.uniform(0, 2))
        if not (alive := [i for i, process in enumerate(running) if process.poll() is None]):
            kills = done
            break
        victim = chance.choice(alive)
        running[victim].kill()
        running[victim].wait()
        running[victim] = study.start(out, logs[victim], *flags[victim])
    for process, log in zip(running, logs, strict=True):
        if process.wait(_LONGEST):
            raise RuntimeError(f"a machine failed: {log.read_text()[-2000:]}")
    return _judge(kills, reference, out, logs, time.monotonic() - began)


def train_alone(study: Study, out: Path) -> dict[str, bytes]:
    """The adapters that one machine trains, in groups of one."""
    log = study.folder / "alone.txt"
    if study.start(out, log, "--at-once", "1").wait(_LONGEST):
        raise RuntimeError(f"training failed: {log.read_text()[-2000:]}")
    return read_adapters(out)


def _judge(kills: int, reference: dict[str, bytes], out: Path, logs: list[Path], seconds: float) -> Killed:
    found, said = read_adapters(out), [line for log in logs for line in log.read_text(errors="replace").splitlines()]
    paths = [line.split("/adapter.safetensors (")[0] for line in said if "/adapter.safetensors (" in line]
    finished = [path.rpartition("/")[2] for path in paths]
    return Killed(
        kills=kills,
        concepts=len(reference),
        lost=len(reference.keys() - found.keys()),
        twice=len(finished) - len(set(finished)),
        different=sum(found.get(name) not in (None, data) for name, data in reference.items()),
        seconds=seconds,
    )


def _wait_for_change(out: Path, reference: dict[str, bytes], finished: int) -> None:
    """Return when more checkpoints than `finished` are there, or all is done."""
    until = time.monotonic() + _LONGEST
    while time.monotonic() < until:
        count = len([path for path in out.glob("groups/*/checkpoints/*") if path.name.isdecimal()])
        if count > finished or len(read_adapters(out)) == len(reference):
            return
        time.sleep(0.05)
    raise subprocess.TimeoutExpired("training", _LONGEST)
