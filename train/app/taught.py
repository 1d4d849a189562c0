"""Trainings that this session has begun, and which of them the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from train.app.jobs import Job


class Training(NamedTuple):
    """A training in the queue, or one that was there. trigger: the words that call the concept. slots: that it owns."""

    job: Job
    folder: Path
    steps: int
    trigger: str
    slots: tuple[int, ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether it waits or runs."""
        return self.job.state in ("waiting", "running")

    def line(self) -> str:
        """Where it is, in one line."""
        name = self.folder.name
        if self.job.state == "done":
            return f"{name} is taught, and is in the library. Call it with “{self.trigger}” in prompts."
        if self.job.state == "failed":
            return f"{name}: error: {self.job.error}"
        if self.job.state == "stopped":
            return f"{name} was stopped. What it has learned so far is kept: it can be continued."
        note = self.job.progress.note if self.job.state == "running" else "waits for its turn"
        return f"{name}: {note}"


def shown_training(trainings: Sequence[Training]) -> Training | None:
    """The one that runs; else the last one that has begun, or the last one."""
    for states in (("running",), ("done", "failed", "stopped"), ("waiting",)):
        chosen = [training for training in trainings if training.job.state in states]
        if chosen:
            return chosen[-1]
    return None
