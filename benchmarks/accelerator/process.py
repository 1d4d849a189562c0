"""A process that prepares a task, waits until the card is free, and measures."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.accelerator.tasks import Task

# A process that says something, and what it says; None after its last word.
Said = tuple["Process", "dict[str, Any] | None"]
COMMAND = (sys.executable, "-m", "benchmarks.accelerator.child")


class Process:
    """One task in a process group of its own, so that all of it can be stopped, continued and ended.

    What it says arrives in `said`. Its standard error goes to a file in `logs`.
    """

    def __init__(
        self, task: Task, size: str, said: queue.Queue[Said], logs: Path, command: Sequence[str] = COMMAND
    ) -> None:
        self.task, self.began, self.is_ready = task, time.monotonic(), False
        settings = json.dumps({"kind": task.kind, "size": size, **task.settings})
        with open(logs / f"{task.name.replace(' ', '-')}.log", "w") as log:
            self._popen = subprocess.Popen(
                [*command, settings],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0,
                env=os.environ | environment(task),
            )  # fmt: skip
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def _listen(self, said: queue.Queue[Said]) -> None:
        assert self._popen.stdout
        for line in self._popen.stdout:
            with suppress(ValueError):
                said.put((self, json.loads(line)))
        self._popen.wait()
        said.put((self, None))

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._popen.poll()

    def go(self) -> None:
        """Let it measure."""
        assert self._popen.stdin
        with suppress(OSError):
            self._popen.stdin.write("go\n")
            self._popen.stdin.flush()

    def pause(self) -> None:
        """Stop it, with its children, where it is."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, with its children."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)


def environment(task: Task) -> dict[str, str]:
    """JAX must leave memory to the other processes, and compile anew, so that the seconds of compiling are right."""
    if task.side != "jax":
        # Reading the published configs imports JAX, which must not take the card.
        return {"JAX_PLATFORMS": "cpu"}
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "BLOCKLORA_COMPILATION_CACHE": "off"}
