"""The time that a run has used, over all of its calls. It is kept beside the checkpoints, so that a run can resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json

Now = Callable[[], float]


class Clock:
    """Seconds of the whole run, and of the stages that have begun; kept in a JSON file by `save`.

    seconds: that the run may take. now: tells the time in seconds.
    """

    def __init__(self, path: Path, seconds: float, now: Now = time.monotonic) -> None:
        self._path, self._seconds, self._now = path, seconds, now
        kept = read_json(path) if path.exists() else {"used": 0.0, "stages": {}}
        self._before, self._began = float(kept["used"]), now()
        self.stages = {name: StageClock(now, **times) for name, times in kept["stages"].items()}

    @property
    def used(self) -> float:
        """Seconds that the run has taken."""
        return self._before + self._now() - self._began

    @property
    def left(self) -> float:
        """Seconds that the run may still take."""
        return self._seconds - self.used

    def stage(self, name: str, share: float) -> StageClock:
        """The clock of a stage that begins now, or goes on: then its share is the one with which it began."""
        found = self.stages.setdefault(name, StageClock(self._now, share=share))
        found.start()
        return found

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens meanwhile takes no time."""
        began = self._now()
        yield
        self._began += self._now() - began

    def save(self) -> None:
        """Write the file."""
        stages = {name: {"share": stage.share, "used": stage.used} for name, stage in self.stages.items()}
        write_json(self._path, {"used": self.used, "stages": stages})


class StageClock:
    """share: the seconds that a stage may take. used: those that it took in earlier calls."""

    def __init__(self, now: Now, share: float, used: float = 0.0) -> None:
        self.share, self._now, self._before, self._began = share, now, used, None

    def start(self) -> None:
        """The stage begins, or goes on."""
        self._began = self._now()

    def stop(self) -> None:
        """The stage has ended."""
        self._before, self._began = self.used, None

    @property
    def used(self) -> float:
        """Seconds that the stage has taken."""
        return self._before + (0.0 if self._began is None else self._now() - self._began)

    @property
    def progress(self) -> float:
        """The part of the share that is used: 1 at its end, and after it."""
        return min(1.0, self.used / self.share) if self.share > 0 else 1.0
