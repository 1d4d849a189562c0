"""Merge, describe and export adapters: `python -m merge --help`."""

from blocklora_jax.command_line.runner import run
from merge.cli.main import main

if __name__ == "__main__":
    run(main)
