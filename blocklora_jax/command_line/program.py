"""The name of the running command in its help and its errors: `python -m merge info`, or `blocklora info`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COMMAND: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def called_as(command: str) -> Iterator[None]:
    """Within this context, `program_name` gives `blocklora COMMAND`."""
    token = _COMMAND.set(command)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def program_name(module_form: str) -> str:
    """The name by which the user called a program. module_form: its name as a module, "python -m merge registry add".

    >>> with called_as("registry"):
    ...     program_name("python -m merge registry add")
    'blocklora registry add'
    >>> program_name("python -m merge registry add")
    'python -m merge registry add'
    """
    command = _COMMAND.get()
    if not command:
        return module_form
    rest = re.sub(rf"^python -m \S+(?: {re.escape(command)}\b)?", "", module_form)
    return f"blocklora {command}{rest}"
