"""`python -m merge replace`: replaces a concept in a merged model's folder by another adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from blocklora_jax.command_line.options import read_options
from merge.cli.files import load_adapter
from merge.cli.remove import RemoveOptions, rewrite


@dataclass(frozen=True, kw_only=True)
class ReplaceOptions(RemoveOptions):
    """Replace a concept by another adapter. The result is, bit for bit, the merge with that adapter instead."""

    file: Positional[Path]
    """The new adapter."""
    weight: float = 1.0
    """The weight of the new adapter."""


def replace_files(args: Sequence[str] | None = None) -> int:
    """Run `replace`; gives the exit code."""
    options = read_options(ReplaceOptions, args, prog="python -m merge replace")
    adapter, path = load_adapter(options.file, options.verify)
    return rewrite(options, adapter, options.weight, [path])
