"""`blocklora COMMAND …`: all commands for training and merging, from any folder."""

from __future__ import annotations

import sys

from blocklora_jax.command_line.command import list_commands, unknown_command
from blocklora_jax.command_line.commands import BROWSER, COMMANDS, MERGING, TRAINING
from blocklora_jax.command_line.program import called_as
from blocklora_jax.command_line.renamed import current_name
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError

HELP = f"""usage: blocklora COMMAND …

Teach a diffusion model concepts, one adapter each, and merge them.

Training:
{list_commands(TRAINING)}

Merging:
{list_commands(MERGING)}

In a browser:
{list_commands(BROWSER)}

`blocklora COMMAND --help` shows the options of a command."""


def main() -> None:
    """The entry point of the console script `blocklora`. It ends the process with the command's exit code."""
    sys.argv[1:2] = map(current_name, sys.argv[1:2])
    # `called_as` encloses `run`, so that error messages name the command as the user typed it.
    with called_as(" ".join(sys.argv[1:2])):
        run(run_command)


def run_command() -> None:
    """Run the command that the first word of `sys.argv` names; without one, list the commands.

    Raises: UserError for an unknown command; SystemExit if the command's exit code is not 0.
    """
    program, *words = sys.argv
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return
    name, *args = words
    commands = {command.name: command for command in COMMANDS}
    if name not in commands:
        raise UserError(f"{unknown_command(name, commands)}. `blocklora` lists the commands")
    # Every command reads its own arguments from sys.argv.
    sys.argv = [program, *args]
    if code := commands[name].load()():
        raise SystemExit(code)


if __name__ == "__main__":
    main()
