"""Runs a command. Errors, warnings and signals are reported in one line and, where they end it, by an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable

from blocklora_jax.command_line.compilation_cache import keep_compiled_programs
from blocklora_jax.command_line.memory_errors import explain_memory
from blocklora_jax.command_line.program import as_called, running_program
from blocklora_jax.command_line.signals import end_on_signals, restore_signals
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import one_line

DEBUG = "BLOCKLORA_DEBUG"


def run(main: Callable[[], None]) -> None:
    """Call `main`. If it fails, exit with one of these codes:

    2 after a UserError; 130 after Ctrl-C and 143 after SIGTERM; 1 for an error of the system (a full disk) or too
    little memory; 70 for an unexpected error, whose traceback is saved. With BLOCKLORA_DEBUG=1 tracebacks are shown.
    """
    handlers = end_on_signals()
    usual, warnings.formatwarning = warnings.formatwarning, _warning
    # Where PyTorch is missing, transformers advises installing it. Only its tokenizer is used, which needs none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    keep_compiled_programs()
    try:
        main()
        # If the reader of the output is gone, the error is raised here and not when the interpreter ends.
        sys.stdout.flush()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # Nobody reads the output any more, as after `| head`. The rest is dropped silently.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        _fail(*explain_error(error))
    finally:
        warnings.formatwarning = usual
        restore_signals(handlers)


def explain_error(error: Exception) -> tuple[str, int]:
    """The message for an error that ended a command, and the exit code, see `run`.

    The traceback of an unexpected error is saved.
    """
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}", 1
    if message := explain_memory(error):
        return message, 1
    return _unexpected(error), 70


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {as_called(one_line(message))}\n"


def _unexpected(error: Exception) -> str:
    """The line for an unexpected exception. Saves its traceback."""
    kind = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = f"unexpected error in {running_program()}: {one_line(kind)[:300]}"
    text = "".join(traceback.format_exception(error))
    try:
        name = time.strftime("blocklora-%Y%m%d-%H%M%S-")
        with tempfile.NamedTemporaryFile("w", prefix=name, suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(text)
        return f"{message}; the full trace is in {file.name}: please report it. {DEBUG}=1 shows it here"
    except OSError:
        return f"{message}; {DEBUG}=1 shows the full trace: please report it"


def _fail(message: str, code: int) -> None:
    if os.environ.get(DEBUG) == "1":
        traceback.print_exc()
    print(f"error: {as_called(one_line(message))}", file=sys.stderr, flush=True)
    raise SystemExit(code)
