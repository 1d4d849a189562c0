"""The name of the running command in its help and its errors: `python -m merge info`, or `blocklora info`.

Help, errors and hints are written in the first form. `as_called` changes them to the second if the user typed that.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from blocklora_jax.command_line.commands import BROWSER, MERGING, TRAINING

_COMMAND: ContextVar[str] = ContextVar("command", default="")
# {"train.concept": "train", …}
_MODULES = {each.target.partition(":")[0].removesuffix(".__main__"): each.name for each in (*TRAINING, *BROWSER)}
_VERBS = "|".join(each.name for each in MERGING)
# A full stop may end the sentence. Followed by a letter it is part of a longer name.
_END = r"(?![\w/-]|\.\w)"
_PROGRAM = re.compile(
    rf"python -m (?:merge(?: (?P<verb>{_VERBS}){_END})?|(?P<module>{'|'.join(map(re.escape, _MODULES))})){_END}"
)


@contextmanager
def called_as(command: str) -> Iterator[None]:
    """Within this context, the running program is `blocklora COMMAND`."""
    token = _COMMAND.set(command)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def as_called(text: str) -> str:
    """`text`, with programs named as the user called them.

    >>> with called_as("registry"):
    ...     as_called("python -m merge registry add")
    ...     as_called("`python -m merge … --save` or python -m train.concept --help")
    'blocklora registry add'
    '`blocklora merge … --save` or blocklora train --help'
    >>> as_called("python -m merge registry add")
    'python -m merge registry add'
    """
    return _PROGRAM.sub(_console_form, text) if _COMMAND.get() else text


def running_program() -> str:
    """The program that the user called: "blocklora info", "python -m merge", or a script's name."""
    if command := _COMMAND.get():
        return f"blocklora {command}"
    if spec := getattr(sys.modules["__main__"], "__spec__", None):
        return f"python -m {spec.name.removesuffix('.__main__')}"
    script = Path(sys.argv[0]).name if sys.argv else ""
    return script if script not in ("", "-c") else "the command"


def _console_form(match: re.Match[str]) -> str:
    return f"blocklora {_MODULES[match['module']] if match['module'] else match['verb'] or 'merge'}"
