"""`python -m merge info`: prints what is in adapter files."""

from collections.abc import Sequence
from dataclasses import dataclass

from blocklora_jax.adapters.find import shown_name
from blocklora_jax.command_line.options import read_options
from merge.cli.describe import describe
from merge.cli.files import load_adapter, required
from merge.cli.shared_options import Files, Options, Verify


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Print what is in adapter files."""

    files: Files
    verify: Verify = True


def print_info(args: Sequence[str] | None = None) -> int:
    """Run `info`; gives the exit code."""
    options = read_options(InfoOptions, args, prog="python -m merge info")
    for path in required(options.files):
        adapter, file = load_adapter(path, options.verify)
        size = f"{file.stat().st_size / 1e6:.2f} MB"
        print(f"{'file:':<10}{shown_name(path, file)}, {size}\n{describe(adapter)}\n")
    return 0
