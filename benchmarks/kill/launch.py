"""Commands in forked processes. Everything is imported before forking, so that a command starts to work at once."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import runpy
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PRELOADED = ("merge.__main__", "train.concept", "blocklora_jax.pipeline", "orbax.checkpoint", "transformers")


@dataclass(frozen=True)
class Command:
    """`python -m module args`."""

    module: str
    args: tuple[str, ...]


@dataclass
class Child:
    """A command that runs in a separate process. `output` gets what it prints, including errors."""

    pid: int
    output: Path
    begun: float = field(default_factory=time.time)
    _gate: int | None = None

    def release(self) -> None:
        """Let a child that was started with `held` begin."""
        if self._gate is not None:
            os.close(self._gate)
            self._gate, self.begun = None, time.time()

    def is_running(self) -> bool:
        """Whether the child has not ended yet. `wait` can still be called after that."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, timeout: float = 180.0) -> int:
        """The exit code, or minus the number of the signal that ended the child.

        Raises: TimeoutError if the child hangs; it is killed then.
        """
        deadline = time.monotonic() + timeout
        while (done := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                self.kill()
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"still running after {timeout:.0f} s: {self.output.read_text()[-300:]}")
            time.sleep(0.002)
        return os.waitstatus_to_exitcode(done[1])

    def kill(self) -> None:
        """Kill the child."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def preload() -> None:
    """Import what the commands import. Nothing is computed, so JAX has no threads, which a fork would lose."""
    for name in PRELOADED:
        importlib.import_module(name)


def start(command: Command, output: Path, held: bool = False, limit: Callable[[], None] | None = None) -> Child:
    """Start `command`. held: it waits for `release` before it begins. limit: called in the child before it begins."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns about every fork.
        pid = os.fork()
    if pid == 0:
        os.close(writer)
        _be_child(command, output, reader, limit)
    os.close(reader)
    child = Child(pid, output, _gate=writer)
    if not held:
        child.release()
    return child


def run(command: Command, output: Path, timeout: float = 180.0) -> int:
    """Run `command` to its end; returns its exit code."""
    return start(command, output).wait(timeout)


def count_compiled() -> int:
    """The number of programs in JAX's cache on disk."""
    return len(list(Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", os.devnull)).glob("*-cache")))


def _be_child(command: Command, output: Path, gate: int, limit: Callable[[], None] | None) -> None:
    """Run the command as in a new Python process, and never return."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.read(gate, 1)  # ends when the other side is closed
        if limit:
            limit()
        code = _run_module(command.module, command.args)
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run_module(module: str, args: Sequence[str]) -> int:
    sys.argv = [module, *args]
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
