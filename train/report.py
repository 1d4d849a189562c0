"""Write the reports of runs: `python -m train.report runs/ada`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html into the folders of runs, finished or interrupted: settings, losses, previews, pictures."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders (--out of a training), or the folder of concepts that were trained together."""

    def __post_init__(self) -> None:
        check_options(self)


def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    options = read_options(ReportOptions, args, prog="python -m train.report")
    if not options.folders:
        raise UserError("name the folder of a run, such as runs/ada")
    from train.concept.report.write import write_report

    for folder in (each for given in options.folders for each in run_folders(given)):
        print(f"wrote {write_report(folder)}")


def run_folders(folder: Path) -> list[Path]:
    """`folder`, or the folders of the concepts in it, if it is that of `python -m train.concepts`."""
    concepts = sorted(path.parent for path in folder.glob("*/config.json"))
    return concepts if concepts and not (folder / "config.json").exists() else [folder]


if __name__ == "__main__":
    run(main)
