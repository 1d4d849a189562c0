"""What a kill, a full disk and a signal leave behind: `python -m benchmarks.kill [--quick]`.

Prints three tables.
Kills: SIGKILL at random moments of every command that writes, and before every system call that changes the disk (these
need strace). After each kill the files are compared with those before and after. Then the command runs again, and its
result is compared with an undisturbed run.
Full disk: every writer on a 4 MB file system with little room.
Signals: SIGINT and SIGTERM from the first import to the end.
Exits with 1 if a row is bad.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run as run_command

Part = Literal["kills", "disk", "signals"]
_MANY = Bound(1, 10**5)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    quick: bool = False
    """Few moments of each, in a minute or two."""
    parts: tuple[Part, ...] = ("kills", "disk", "signals")
    """Which tables."""
    only: str | None = None
    """Only rows whose name contains this."""
    kills: int | None = None
    """Random kills of all commands together; 100, or 6 with --quick."""
    moments: int | None = None
    """Signals to each command; 40, or 3 with --quick."""
    seed: int = 0
    """Seeds all moments."""

    def __post_init__(self) -> None:
        check_options(self, {"kills": _MANY, "moments": _MANY})


def main() -> int:
    """The command line; gives the exit code."""
    options = read_options(Options, description=__doc__, prog="python -m benchmarks.kill")
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    # Before JAX is imported. Children that compile nothing are at the writing sooner.
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "HF_HUB_OFFLINE": "1",
    }
    # The package's own handlers end a process at once; here a disk is to be unmounted first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: Options, folder: Path) -> int:
    """Make the tables in turn; gives 1 if a row of them is bad."""
    # Imported late: the environment comes first.
    from benchmarks.kill import disk, kills, signals
    from benchmarks.kill.launch import Command, preload, run

    preload()
    inputs = folder / "inputs"
    # In a process of its own: JAX must not run in this one, which forks.
    if run(Command("benchmarks.kill.inputs", (str(inputs),)), log := folder / "inputs.txt"):
        raise RuntimeError(log.read_text())
    rng = np.random.default_rng(options.seed)
    good, only = True, options.only or ""
    if "kills" in options.parts:
        count = options.kills or (6 if options.quick else 100)
        good &= kills.measure(inputs, folder / "kills", count, rng, options.quick, only)
    if "disk" in options.parts:
        good &= disk.measure(inputs, folder / "disk", options.quick, only)
    if "signals" in options.parts:
        count = options.moments or (3 if options.quick else 40)
        good &= signals.measure(inputs, folder / "signals", count, rng, only)
    return 0 if good else 1


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
