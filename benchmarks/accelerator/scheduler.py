"""Several tasks are prepared at a time; only one measures, and meanwhile the others are stopped.

Most of the time goes into compiling, which hardly needs the card. So it is worth doing side by side.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.accelerator.budget import Budget
from benchmarks.accelerator.process import Process, Said
from benchmarks.accelerator.tasks import Task

# Seconds after which work that was given to the card before a process was stopped has ended.
_QUIET = 0.2
# A measurement that takes this many times as long as expected, and this many seconds, hangs.
_HANGS, _HANGS_SECONDS = 8.0, 30.0

Start = Callable[[Task, "queue.Queue[Said]"], Process]


@dataclass
class Scheduler:
    """Runs `tasks` within `budget`.

    start: makes the process of a task. write: takes each result. parallel: the largest number of processes. gigabytes:
    of the card, for all of them.
    """

    budget: Budget
    start: Start
    write: Callable[[dict[str, Any]], None]
    parallel: int
    gigabytes: float
    _said: queue.Queue[Said] = field(default_factory=queue.Queue)
    _running: list[Process] = field(default_factory=list)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run the tasks in order. Whatever still runs at the end of the time is ended."""
        waiting = list(tasks)
        try:
            while waiting or self._running:
                self._start_some(waiting)
                self._listen()
                self._end_late()
                self._measure()
        finally:
            for process in self._running:
                process.kill()

    def _start_some(self, waiting: list[Task]) -> None:
        """Start the first tasks that wait, as far as there is room for them; skip those that would take too long."""
        while waiting and len(self._running) < self.parallel:
            task, seconds, left = waiting[0], self.budget.expected(waiting[0]), self.budget.left
            if seconds > left:
                self._tell(waiting.pop(0), skipped=f"needs about {seconds:.0f} s, {max(left, 0):.0f} s are left")
            elif not self._running or self._taken + task.gigabytes <= self.gigabytes:
                try:
                    self._running.append(self.start(waiting.pop(0), self._said))
                except OSError as error:
                    self._tell(task, error=f"the process could not be started: {error}")
            else:
                return

    @property
    def _taken(self) -> float:
        return sum(process.task.gigabytes for process in self._running)

    def _listen(self, seconds: float = 0.2) -> None:
        """Hear what one process says, if any does so within `seconds`."""
        try:
            process, message = self._said.get(timeout=seconds)
        except queue.Empty:
            return
        self._hear(process, message)

    def _hear(self, process: Process, message: dict[str, Any] | None) -> None:
        if process not in self._running:
            return
        if message is None:
            self._running.remove(process)
            if process.code:
                self._tell(process.task, error=f"the process ended with code {process.code}; see its log")
        elif message["event"] == "ready":
            process.is_ready = True
            self.budget.learn(process.task, time.monotonic() - process.began)
        elif message["event"] == "error":
            self._tell(process.task, **message["row"])
            # Its exit code says nothing new.
            self._end(process)
        elif message["event"] == "row":
            self._tell(process.task, **message["row"])

    def _end(self, process: Process) -> None:
        process.kill()
        if process in self._running:
            self._running.remove(process)

    def _end_late(self) -> None:
        """End what cannot be measured any more."""
        for process in list(self._running):
            if self.budget.left < (self.budget.measuring(process.task) if process.is_ready else 0):
                self._end(process)
                self._tell(process.task, error="no time is left")

    def _measure(self) -> None:
        """Let the most valuable process that is ready measure, alone."""
        process = next((process for process in self._running if process.is_ready), None)
        if process is None:
            return
        with self._alone(process):
            limit = min(self.budget.left, max(_HANGS_SECONDS, _HANGS * self.budget.measuring(process.task)))
            until = time.monotonic() + limit
            process.go()
            while process in self._running and time.monotonic() < until:
                self._listen(min(0.2, limit))
            if process in self._running:
                self._end(process)
                self._tell(process.task, error=f"it was still measuring after {limit:.0f} s")

    @contextmanager
    def _alone(self, process: Process):
        others = [other for other in self._running if other is not process]
        for other in others:
            other.pause()
        if others:
            time.sleep(_QUIET)
        try:
            yield
        finally:
            for other in others:
                other.resume()

    def _tell(self, task: Task, **row: Any) -> None:
        self.write({"task": task.name, "side": task.side, **row})
