"""Calls the `blocklora` command in a process of its own, so that JAX and PyTorch do not meet in one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

# The command, with arguments if need be: "/path/to/venv/bin/blocklora".
COMMAND_VARIABLE = "BLOCKLORA_COMMAND"
_INSTALL = (
    "the command `blocklora` was not found. Install blocklora_jax into an environment of its own, not into ComfyUI's,"
    f" and set the environment variable {COMMAND_VARIABLE} to its path, such as /path/to/venv/bin/blocklora"
)
# Variables of ComfyUI's own Python, which another environment must not see.
_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_POLL = 0.3  # seconds


class Result(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    text: str


def call(arguments: Sequence[str], stop: Callable[[], None] = lambda: None, allowed: Sequence[int] = (0,)) -> Result:
    """Run `blocklora` with these arguments.

    stop: is called while it runs, and raises an exception to end it. allowed: exit codes that are no error.

    Raises: RuntimeError with the command's own message if it fails, or if it is not installed.
    """
    # A file and not a pipe, which could fill up while nobody reads.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            process = subprocess.Popen(
                [*_command(), *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT, env=_environment()
            )
        except OSError as error:
            raise RuntimeError(f"{_INSTALL} ({error})") from error
        try:
            while process.poll() is None:
                stop()
                _wait(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        text = log.read()
    if process.returncode not in allowed:
        raise RuntimeError(_message(text) or f"blocklora ended with the code {process.returncode}")
    return Result(process.returncode, text)


def _command() -> list[str]:
    if given := os.environ.get(COMMAND_VARIABLE, "").strip():
        # Backslashes are part of paths on Windows.
        return [word.strip('"') for word in shlex.split(given, posix=os.name != "nt")]
    found = shutil.which("blocklora")
    if found is None:
        raise RuntimeError(_INSTALL)
    return [found]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    # JAX would otherwise take most of the memory that ComfyUI uses too.
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONIOENCODING": "utf-8", **kept}


def _wait(process: subprocess.Popen) -> None:
    try:
        process.wait(_POLL)
    except subprocess.TimeoutExpired:
        return


def _message(text: str) -> str:
    """The command's error: its last line that says "error: ", or the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")
