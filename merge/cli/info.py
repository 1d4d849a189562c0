"""`python -m merge info`: prints what is in adapter files."""

from collections.abc import Sequence
from dataclasses import dataclass

from blocklora_jax.command_line.options import read_options
from merge.cli.describe import describe
from merge.cli.files import required
from merge.cli.reading import AdapterReader
from merge.cli.shared_options import Files, Options, SkipUnusable, Verify
from merge.cli.sources import find_sources, load_each


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Print what is in adapter files."""

    files: Files
    model: str | None = None
    """The base model, only for files whose changes depend on it (DoRA, OFT, IA3, GLoRA)."""
    skip_unusable: SkipUnusable = False
    verify: Verify = True


def print_info(args: Sequence[str] | None = None) -> int:
    """Run `info`; gives the exit code."""
    options = read_options(InfoOptions, args, prog="python -m merge info")
    skip = options.skip_unusable
    sources = find_sources(required(options.files), skip_unusable=skip)
    reader = AdapterReader(model=options.model, verify=options.verify)
    for source, adapter in load_each(sources, options.verify, skip_unusable=skip, reader=reader):
        size = f"{source.path.stat().st_size / 1e6:.2f} MB"
        print(f"{'file:':<10}{source.name}, {size}\n{describe(adapter)}\n")
    return 0
