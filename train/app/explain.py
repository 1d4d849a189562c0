"""Errors as the one line that the command line prints, in any thread."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

from blocklora_jax.command_line.program import as_called
from blocklora_jax.command_line.runner import explain_error
from blocklora_jax.io.printing import one_line


def error_lines() -> Callable[[Exception], str]:
    """A function that gives the line for an error, with commands named as the running one was called.

    How it was called is known only where this function is called, not in threads that begin later.
    """
    context = copy_context()

    def explain(error: Exception) -> str:
        # A copy, because two threads cannot be in one context.
        return context.copy().run(lambda: as_called(one_line(explain_error(error)[0])))

    return explain
