"""Ctrl-C and SIGTERM: a command ends at once, with one line and nothing half-written.

This module imports nothing heavy, so that the command lines can ask for it before everything else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}
COMMANDS = ("blocklora_jax", "train", "merge", "benchmarks")
# The console script, under the names that it has on different systems.
SCRIPTS = ("blocklora", "blocklora.exe", "blocklora-script.py")


def end_on_signals() -> dict[int, Any]:
    """From now on SIGINT and SIGTERM end the process with exit code 130 or 143; gives the handlers that this replaced.

    The process ends within the handler. An exception would be lost where it happens to be raised in a destructor or a
    callback, and shown as a traceback where it is raised in an import.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    # Who ignores a signal (nohup), or has a handler of its own (a test runner, a notebook), keeps that.
    usual: dict[int, Any] = {int(number): signal.getsignal(number) for number in NAMES}
    usual = {n: old for n, old in usual.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for number in usual:
        signal.signal(number, _end)
    return usual


def restore_signals(handlers: dict[int, Any]) -> None:
    """Put `handlers` back. A command that has ours since its first import is done: it ends as it would have.

    The interpreter puts its own handlers back while it ends, and would end with a traceback or without a word.
    """
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for number in NAMES:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_IGN)


def end_early() -> None:
    """`end_on_signals` from the first import on, if this process is one of our commands.

    These are `python -m train.concept` and the like, and the console script `blocklora`.
    """
    words = getattr(sys, "orig_argv", [])
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    is_script = Path(words[1]).name in SCRIPTS if len(words) > 1 else False
    if is_script or (module and module[0].split(".")[0] in COMMANDS):
        end_on_signals()


def _end(number: int, frame: Any) -> None:
    # Whatever it is now that is in the middle of something, it does not go on.
    for other in NAMES:
        signal.signal(other, signal.SIG_IGN)
    files = sys.modules.get("blocklora_jax.io.atomic")
    try:
        if files is not None and hasattr(files, "remove_temporaries"):
            files.remove_temporaries()
        line = f"error: {NAMES[signal.Signals(number)]}\n"
        # A progress bar may stand on the line. Not print: its buffer may be what was interrupted.
        os.write(2, (f"\n{line}" if os.isatty(2) else line).encode())
    except OSError:
        pass
    finally:
        os._exit(128 + number)
