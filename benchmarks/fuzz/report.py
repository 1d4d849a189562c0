"""The table, and the offending inputs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.fuzz.trial import BAD, Result, Verdict

_ORDER = (Verdict.REFUSED, Verdict.BOX, Verdict.UNCHANGED, Verdict.APART, *BAD)


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """A row for each kind and one for all, in Markdown."""
    rows = [("kind", "cases", *(str(verdict) for verdict in _ORDER))]
    rows += [(kind, *_numbers(found)) for kind, found in results.items()]
    rows.append(("all", *_numbers([result for found in results.values() for result in found])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def failures(results: Sequence[Result]) -> list[Result]:
    """Those that must not be."""
    return [result for result in results if result.verdict in BAD]


def keep(result: Result, scratch: Path, folder: Path) -> None:
    """Copy the files of a case that went wrong into `folder`, with what happened."""
    shutil.rmtree(folder, ignore_errors=True)
    if scratch.is_dir():
        shutil.copytree(scratch, folder, symlinks=True, ignore=_special, ignore_dangling_symlinks=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "what_happened.txt").write_text(f"{result.title}\n{result.verdict}: {result.detail}\n", errors="replace")


def _special(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied: pipes and devices."""
    paths = {name: Path(folder) / name for name in names}
    return [n for n, path in paths.items() if not (path.is_symlink() or path.is_file() or path.is_dir())]


def _numbers(results: Sequence[Result]) -> list[str]:
    counts = Counter(result.verdict for result in results)
    return [str(len(results)), *(str(counts[verdict]) for verdict in _ORDER)]
