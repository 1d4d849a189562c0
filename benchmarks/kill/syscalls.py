"""Kills a process before a certain system call, with strace. So every moment between two changes of the disk is tested.

`strace` sees calls that Python's own hooks do not see: renames through ctypes, and writes of C++ and Rust libraries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.kill.launch import Child, Command, start

# System calls that can change a disk.
CALLS = (
    "openat creat write writev pwrite64 pwritev fsync fdatasync ftruncate truncate rename renameat renameat2 unlink"
    " unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat chmod fchmod fchmodat utimensat copy_file_range"
).split()
_LINE = re.compile(r"(\d+) +(\w+)\(")


class Moment(NamedTuple):
    """The moment just before the `ordinal`-th `call` of a thread. `number` counts the moments of a run."""

    call: str
    ordinal: int
    number: int


def is_available() -> bool:
    """Whether strace is installed and is allowed to trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode == 0


def list_moments(command: Command, output: Path, folder: Path) -> list[Moment]:
    """Run `command` and list the calls that changed something in `folder`."""
    log = output.with_suffix(".strace")
    child = start(command, output, held=True)
    tracer = _attach(child, ["-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(CALLS)}"])
    child.release()
    if code := child.wait():
        raise RuntimeError(f"{command} failed under strace ({code}): {output.read_text()[-500:]}")
    tracer.wait()
    return parse_moments(log.read_text(errors="replace"), folder)


def parse_moments(log: str, folder: Path) -> list[Moment]:
    """The moments in a log of strace."""
    counts: Counter[tuple[str, str]] = Counter()
    moments: list[Moment] = []
    for line in log.splitlines():
        if not (match := _LINE.match(line)):
            continue
        caller = (match[1], match[2])
        counts[caller] += 1
        reads = match[2] == "openat" and "O_CREAT" not in line and "O_TRUNC" not in line
        if str(folder) in line and not reads:
            moments.append(Moment(match[2], counts[caller], len(moments)))
    return moments


def kill_at(command: Command, output: Path, moment: Moment) -> int:
    """Run `command` until it is killed at `moment`; returns its exit code."""
    child = start(command, output, held=True)
    inject = f"inject={moment.call}:signal=KILL:when={moment.ordinal}"
    tracer = _attach(child, ["-o", os.devnull, "-e", f"trace={moment.call}", "-e", inject])
    child.release()
    code = child.wait()
    tracer.wait()
    return code


def _attach(child: Child, options: list[str]) -> subprocess.Popen:
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", *options, "-p", str(child.pid)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    status = Path(f"/proc/{child.pid}/status")
    deadline = time.monotonic() + 10
    while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
        if time.monotonic() > deadline or tracer.poll() is not None:
            child.kill()
            raise RuntimeError("strace could not attach to a process")
        time.sleep(0.002)
    return tracer
