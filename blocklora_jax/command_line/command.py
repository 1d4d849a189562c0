"""One command: its name, a line of help, and its function. The function is imported only when the command runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from blocklora_jax.command_line.bucket_files import files_in_buckets


class Command(NamedTuple):
    """A command and its function.

    name: the word on the command line. help: one line. target: "module:function". The function reads `sys.argv` and may
    return an exit code. stages: its options may name files in object stores, which are copied here and there.
    """

    name: str
    help: str
    target: str
    stages: bool = False

    def load(self) -> Callable[..., int | None]:
        """The function, from its module, which is imported now."""
        module, _, name = self.target.partition(":")
        function = getattr(import_module(module), name)
        return files_in_buckets()(function) if self.stages else function


def list_commands(commands: Iterable[Command]) -> str:
    """The names with their help, one on each line."""
    commands = list(commands)
    width = max(len(command.name) for command in commands) + 2
    return "\n".join(f"  {command.name:<{width}}{command.help}" for command in commands)


def unknown_command(word: str, names: Iterable[str], group: str = "", kind: str = "command") -> str:
    """The error message for a word that is not the name of a command.

    group: the command that it should be a part of, such as "registry". kind: what the word should name.

    >>> unknown_command("exprot", ["info", "export"])
    "unknown command 'exprot': choose info, export; did you mean 'export'?"
    """
    names = list(names)
    close = get_close_matches(word.lower(), names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {f'{group} ' if group else ''}{word!r}: choose {', '.join(names)}{guess}"
