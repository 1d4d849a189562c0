"""Speed and memory on an accelerator, against PyTorch: `python -m benchmarks.accelerator --minutes 4`.

Random weights of published models, made on the device. Measures a training step of Stable Diffusion 1.5 and SDXL and
sampling against PyTorch with diffusers and PEFT, several concepts in one program, the cost of erasure, merging of 15
and 60 adapters, and the forms of attention, the most valuable first. Each result is a line of JSON as soon as it is
there. What does not fit into the minutes is skipped. Each measurement has a process of its own, so that a failure costs
only itself.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.accelerator.budget import Budget
from benchmarks.accelerator.lines import Lines
from benchmarks.accelerator.process import Process
from benchmarks.accelerator.scheduler import Scheduler
from benchmarks.accelerator.summary import summarize
from benchmarks.accelerator.tasks import Task, list_tasks
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError

_PACKAGES = ("jax", "jaxlib", "flax", "torch", "diffusers", "peft", "transformers", "numpy")
# Seconds that tiny tasks take, as parts of those of full ones on a large card. Compiling for a CPU takes as long.
_TINY = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure on the accelerator of this machine."""

    minutes: float = 4.0
    """The time for all of it. What does not fit into it is skipped."""
    only: tuple[str, ...] | None = None
    """Beginnings of the names of tasks, such as training or 'sampling sd15'. Without it, all."""
    tiny: bool = False
    """Tiny models, which run on a CPU too, to see that everything works."""
    parallel: int = 4
    """Number of tasks that are prepared side by side. Only one measures, and meanwhile the others are stopped."""
    gigabytes: float = 72.0
    """The card's memory, which the tasks share."""
    out: Path | None = None
    """Folder for lines.jsonl and the logs of the tasks."""

    def __post_init__(self) -> None:
        check_options(self)
        if unknown := [start for start in self.only or () if not _chosen((start,))]:
            names = ", ".join(task.name for task in list_tasks())
            raise UserError(f"--only {unknown[0]!r} begins no task's name; there are: {names}")


def _chosen(only: tuple[str, ...] | None) -> list[Task]:
    return [task for task in list_tasks() if not only or task.name.startswith(only)]


def machine() -> dict[str, Any]:
    """The card, and the versions of what is measured. No library is imported, so that the card stays free."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {"card": _card(), "cores": os.cpu_count(), "python": platform.python_version(), "packages": packages}


def _card() -> str | None:
    """The name and the driver of the first NVIDIA card."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0] if done.stdout else None


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    budget = Budget(60 * options.minutes, _TINY if options.tiny else 1.0)
    with tempfile.TemporaryDirectory() as temporary:
        logs = options.out or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        lines = Lines(options.out and options.out / "lines.jsonl")
        size = "tiny" if options.tiny else "full"
        lines.write({"task": "start", "minutes": options.minutes, "size": size, **machine()})
        start = partial(_start, size, logs)
        Scheduler(budget, start, lines.write, options.parallel, options.gigabytes).run(_chosen(options.only))
        lines.write({"task": "end", "seconds_left": round(budget.left, 1)})
        print(summarize(lines.rows))


def _start(size: str, logs: Path, task: Task, said: Any) -> Process:
    return Process(task, size, said, logs)


if __name__ == "__main__":
    run(main)
