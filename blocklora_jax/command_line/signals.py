"""Ctrl-C and SIGTERM end a command at once, with one line and without half-written files.

This module imports nothing heavy, so that commands can import it before everything else.
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
# The names of the console script on different systems.
SCRIPTS = ("blocklora", "blocklora.exe", "blocklora-script.py")


def end_on_signals() -> dict[int, Any]:
    """From now on SIGINT and SIGTERM end the process with exit code 130 or 143. Gives the handlers that were replaced.

    The process ends within the handler. An exception would be lost if it were raised in a destructor or a callback, and
    shown as a traceback if it were raised in an import.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    # A process that ignores a signal (nohup) or has another handler (a test runner, a notebook) keeps it.
    usual: dict[int, Any] = {int(number): signal.getsignal(number) for number in NAMES}
    usual = {n: old for n, old in usual.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for number in usual:
        signal.signal(number, _end)
    return usual


def restore_signals(handlers: dict[int, Any]) -> None:
    """Put `handlers` back. If ours is still set then (see `end_early`), signals are ignored: the command is done.

    Otherwise a signal while the interpreter ends would cause a traceback or a silent end, because the interpreter puts
    its own handlers back.
    """
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for number in NAMES:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_IGN)


def end_early() -> None:
    """Calls `end_on_signals` at the first import, if this process is one of our commands.

    Our commands are `python -m train.concept` and the like, and the console script `blocklora`.
    """
    words = getattr(sys, "orig_argv", [])
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    is_script = Path(words[1]).name in SCRIPTS if len(words) > 1 else False
    if is_script or (module and module[0].split(".")[0] in COMMANDS):
        end_on_signals()


def _end(number: int, frame: Any) -> None:
    # A second signal must not interrupt this handler.
    for other in NAMES:
        signal.signal(other, signal.SIG_IGN)
    files = sys.modules.get("blocklora_jax.io.atomic")
    try:
        if files is not None and hasattr(files, "remove_temporaries"):
            files.remove_temporaries()
        line = f"error: {NAMES[signal.Signals(number)]}\n"
        # There may be a progress bar on the line. Not `print`: the signal may have interrupted a write to its buffer.
        os.write(2, (f"\n{line}" if os.isatty(2) else line).encode())
    except OSError:
        pass
    finally:
        os._exit(128 + number)
