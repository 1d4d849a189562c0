"""The time that there is, and how long things take here compared with what is expected."""

from __future__ import annotations

import time

from benchmarks.accelerator.tasks import Side, Task


class Budget:
    """Counts down from `seconds`.

    The expected times of a task are multiplied by what earlier tasks of its side took, divided by what they were
    expected to take. Before the first one has ended the factor is that of the options.
    """

    def __init__(self, seconds: float, factor: float = 1.0) -> None:
        self._end, self._factor = time.monotonic() + seconds, factor
        self._seen: dict[Side, list[float]] = {}

    @property
    def left(self) -> float:
        """Seconds until the end; below zero after it."""
        return self._end - time.monotonic()

    def expected(self, task: Task) -> float:
        """Seconds that the task will take, from its start."""
        return self.scale(task.side) * task.prepare + self.measuring(task)

    def measuring(self, task: Task) -> float:
        """Seconds that its measurements will take once it is prepared."""
        return self.scale(task.side) * task.measure

    def scale(self, side: Side) -> float:
        """The mean of the last three tasks of a side."""
        seen = self._seen.get(side, [])[-3:]
        return sum(seen) / len(seen) if seen else self._factor

    def learn(self, task: Task, seconds: float) -> None:
        """Note that a task was prepared in `seconds`."""
        self._seen.setdefault(task.side, []).append(seconds / task.prepare)
