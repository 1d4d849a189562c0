"""What a kill, a full disk and a signal leave behind: `python -m benchmarks.kill [--quick]`.

Prints three tables.
Kills: every command that writes gets SIGKILL at random moments, and before every system call that changes the disk
(this needs strace). After each kill the files are compared with those before and after an undisturbed run. Then the
command runs again, and the result is compared with that of the undisturbed run.
Full disk: every command that writes runs on a 4 MB file system with little room.
Signals: commands get SIGINT and SIGTERM at moments from the first import to the end.
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
    """What to measure."""

    quick: bool = False
    """Only a few moments of each command, in a minute or two."""
    parts: tuple[Part, ...] = ("kills", "disk", "signals")
    """The tables to make."""
    only: str | None = None
    """Only rows whose name contains this."""
    kills: int | None = None
    """Number of random kills of all commands together. If not given: 100, or 6 with --quick."""
    moments: int | None = None
    """Number of signals to each command. If not given: 40, or 3 with --quick."""
    seed: int = 0
    """Seed of all moments."""

    def __post_init__(self) -> None:
        check_options(self, {"kills": _MANY, "moments": _MANY})


def main() -> int:
    """The command line; returns the exit code."""
    options = read_options(Options, description=__doc__, prog="python -m benchmarks.kill")
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    # Must be set before JAX is imported. Children that compile nothing begin to write sooner.
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "HF_HUB_OFFLINE": "1",
    }
    # The package's own handlers end a process at once. Here a disk must be unmounted first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(options: Options, folder: Path) -> int:
    """Make the tables in turn; returns 1 if one of their rows is bad."""
    # Imported late, because the environment must be set before.
    from benchmarks.kill import disk, kills, signals
    from benchmarks.kill.launch import Command, preload, run

    preload()
    inputs = folder / "inputs"
    # In a separate process, because JAX must not run in this one, which forks.
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
