"""`python -m merge replace`: another adapter in the place of a concept of a merged model's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.options import read_options
from merge.cli.remove import RemoveOptions, rewrite


@dataclass(frozen=True, kw_only=True)
class ReplaceOptions(RemoveOptions):
    """Put another adapter in the place of a concept: the result is, bit for bit, the merge with it instead."""

    file: Positional[Path]
    """The adapter that takes its place."""
    weight: float = 1.0
    """How strongly it joins."""


def replace_files(args: Sequence[str] | None = None) -> int:
    """Run `replace`; gives the exit code."""
    options = read_options(ReplaceOptions, args, prog="python -m merge replace")
    return rewrite(options, Adapter.load(options.file, options.verify), options.weight, [options.file])
