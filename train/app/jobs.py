"""Long jobs, one after the other: a queue with one worker, progress, and a request to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from blocklora_jax.errors import UserError
from train.app.explain import error_lines
from train.engine.loop import Interrupted

State = Literal["waiting", "running", "done", "failed", "stopped"]
_MOST_WAITING = 8


class Stopped(Exception):
    """A job was asked to stop, and has stopped."""


class Progress(NamedTuple):
    """Progress in words, and as a share in 0..1; None if that is not known."""

    note: str
    share: float | None = None


class Job:
    """Something that takes long.

    title: what it does ("teaching ada"). state: how far it is. error: one line, the same as on the command line, if it
    failed. result: what it gives. stop: set to ask it to stop. watch: gives the progress of work that does not report
    it by `say`.
    """

    def __init__(self, title: str, work: Callable[[Job], Any], explain: Callable[[Exception], str]) -> None:
        self.title, self._work, self._explain = title, work, explain
        self.state: State = "waiting"
        self.error, self.result = "", None
        self.stop = threading.Event()
        self.watch: Callable[[], Progress] | None = None
        self._said = Progress("")
        self._over = threading.Event()

    @property
    def progress(self) -> Progress:
        """How far the job is."""
        return self.watch() if self.watch else self._said

    def say(self, note: str, share: float | None = None) -> None:
        """Report progress. Raises: Stopped if the job was asked to stop."""
        self._said = Progress(note, share)
        if self.stop.is_set():
            raise Stopped

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the job is over. Gives whether it is."""
        return self._over.wait(seconds)

    def outcome(self) -> Any:
        """The result, after waiting for it. Raises: UserError with the job's error, or if it was stopped."""
        self.wait()
        if self.state != "done":
            raise UserError(self.error or f"{self.title}: stopped")
        return self.result

    def run(self) -> None:
        """Do the work, and keep its result or its error."""
        try:
            if self.stop.is_set():
                raise Stopped
            self.state = "running"
            self.result = self._work(self)
            self.state = "done"
        except (Stopped, Interrupted):
            self.state = "stopped"
        except Exception as error:
            self.error = self._explain(error)
            self.state = "failed"
        finally:
            self._over.set()


class JobQueue:
    """Runs one job at a time, in a thread of its own, in the order in which they came.

    >>> queue = JobQueue()
    >>> queue.add("adding", lambda job: 1 + 1).outcome()
    2
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self.explain = error_lines()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True, name="jobs").start()

    def add(self, title: str, work: Callable[[Job], Any]) -> Job:
        """A new job at the end of the queue. Raises: UserError if too many are waiting."""
        with self._changed:
            if len(self._jobs) > _MOST_WAITING:
                raise UserError(f"{len(self._jobs)} jobs are waiting already: stop one, or wait until one is done")
            job = Job(title, work, self.explain)
            self._jobs.append(job)
            self._changed.notify()
        return job

    def jobs(self) -> list[Job]:
        """The running job, and after it those that wait."""
        with self._changed:
            return list(self._jobs)

    def stop(self) -> str:
        """Ask the running job to stop. Gives its title; "" if there is none."""
        jobs = self.jobs()
        if jobs:
            jobs[0].stop.set()
        return jobs[0].title if jobs else ""

    def stop_all(self) -> None:
        """Ask all jobs to stop, and wait until they have."""
        jobs = self.jobs()
        for job in jobs:
            job.stop.set()
        for job in jobs:
            job.wait()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs[0]
            job.run()
            with self._changed:
                self._jobs.remove(job)
