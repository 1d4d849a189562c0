"""`python -m merge`: the first word names the command. Without a command, adapters are merged."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from blocklora_jax.command_line.command import unknown_command
from blocklora_jax.command_line.commands import MERGING
from blocklora_jax.command_line.renamed import current_name
from blocklora_jax.errors import UserError
from merge.cli.verbs import is_verb

# `python -m merge merge FILES …` is the same as `python -m merge FILES …`.
VERBS = {command.name: command for command in MERGING}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that the first word names, or a merge if it names none. Exits with its code if that is not 0."""
    args = list(sys.argv[1:] if args is None else args)
    verb = current_name(args[0]) if args else ""
    if verb in VERBS:
        code = VERBS[verb].load()(args[1:])
    elif args and is_verb(verb):
        raise UserError(unknown_command(verb, [name for name in VERBS if name != "merge"]))
    else:
        code = VERBS["merge"].load()(args)
    if code:
        raise SystemExit(code)
