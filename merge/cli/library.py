"""`python -m merge library …`: lists the LoRA files of a folder in a YAML file that people can edit."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tyro.conf import Positional

from blocklora_jax.command_line.command import unknown_command
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.program import as_called
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from blocklora_jax.library.entry import Entry
from blocklora_jax.library.library import open_library, usable
from blocklora_jax.library.scan import duplicates, scan_library
from blocklora_jax.library.yaml_file import FILE
from merge.cli.shared_options import Options

_PROGRAM = "python -m merge library"
HELP = """A library is a folder of LoRA files with a list of them, library.yaml, which you can edit.

  scan   make or update the list: names, base models, triggers, kinds, problems
  list   print it as a table

python -m merge library <command> --help says more.
`merge`, `fit`, `check`, `convert`, `export` and `info` of `python -m merge` take the folder, or the list.
"""


@dataclass(frozen=True, kw_only=True)
class ScanOptions(Options):
    """Make or update FOLDER/library.yaml, the list of all LoRA files in a folder and in the folders below it.

    The headers of files are read, and texts beside them: Civitai's .civitai.info, A1111's .json, a .txt. Your changes
    to the list are kept, and so are its comments.
    """

    CHANGES: ClassVar = ("folder",)

    folder: Positional[Path]
    """The folder with the LoRA files."""
    digests: bool = True
    """Compute the SHA-256 of new files, which reads them whole. It shows equal files, and keeps the entries of files
    that are moved."""


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """Print the library as a table. Exit code 0: all files can be used; 1: some cannot."""

    folder: Positional[Path]
    """The folder, or its library.yaml."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; gives the exit code."""
    args = list(sys.argv[1:] if args is None else args)
    commands: dict[str, tuple[Any, Callable[[Any], int]]] = {"scan": (ScanOptions, scan), "list": (ListOptions, show)}
    if not args or args[0] in ("-h", "--help"):
        print(as_called(HELP))
        return 0
    if args[0] not in commands:
        raise UserError(unknown_command(args[0], commands, "library"))
    options, command = commands[args[0]]
    return command(read_options(options, args[1:], prog=f"{_PROGRAM} {args[0]}"))


def scan(options: ScanOptions) -> int:
    """Write the library's file, and print what is worth knowing."""
    entries = scan_library(options.folder, options.digests)
    good, reasons = usable(entries)
    bases = Counter(entry.found.base or "unknown" for entry in good)
    counts = ", ".join(f"{count} {base}" for base, count in bases.most_common())
    print(f"wrote {options.folder / FILE}: {len(entries)} files, {len(good)} of them usable ({counts or 'none'})")
    for file, reason in reasons.items():
        print(printable(f"problem: {file}: {reason}"))
    for entry in entries:
        for note in entry.found.notes:
            print(printable(f"note: {note}"))
    for first, *rest in duplicates(entries):
        print(printable(f"equal files: {first.file} and {', '.join(entry.file for entry in rest)}"))
    for field, plural in (("trigger", "triggers"), ("kind", "kinds")):
        if missing := [entry.file for entry in good if not getattr(entry, field)]:
            print(printable(f"{len(missing)} without a {field}; add {plural} in the file: {', '.join(missing)}"))
    return 0


def show(options: ListOptions) -> int:
    """Print a line for each file. Gives the exit code."""
    entries = open_library(options.folder)[1]
    rows = [("name", "base", "format", "rank", "MB", "kind", "trigger"), *map(_row, entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    reasons = usable(entries)[1]
    for file, reason in reasons.items():
        print(printable(f"problem: {file}: {reason}"))
    return 1 if reasons else 0


def _row(entry: Entry) -> tuple[str, ...]:
    found = entry.found
    return (
        entry.name, found.base or "?", found.format or "?", str(found.rank or "?"), f"{found.size / 1e6:.1f}",
        entry.kind or "?", entry.trigger or "?",
    )  # fmt: skip
