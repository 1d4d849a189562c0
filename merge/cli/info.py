"""`python -m merge info`: prints what is in adapter files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.options import check_options, read_options
from merge.cli.describe import describe
from merge.cli.files import required


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Print what is in adapter files."""

    files: Positional[tuple[Path, ...]]
    """Adapter files: the adapter.safetensors of training runs."""
    verify: bool = True
    """Refuse files that were changed after they were written; --no-verify reads files that were edited on purpose."""

    def __post_init__(self) -> None:
        check_options(self)


def print_info(args: Sequence[str] | None = None) -> int:
    """Run `info`; gives the exit code."""
    options = read_options(InfoOptions, args, prog="python -m merge info")
    for path in required(options.files):
        size = f"{path.stat().st_size / 1e6:.2f} MB" if path.is_file() else ""
        print(f"{'file:':<10}{path}, {size}\n{describe(Adapter.load(path, options.verify))}\n")
    return 0
