"""The table of results, and copies of inputs that gave failures."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.fuzz.trial import BAD, Result, Verdict

_ORDER = (Verdict.REFUSED, Verdict.BOX, Verdict.UNCHANGED, Verdict.APART, *BAD)


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """A row for each kind and one for all, in Markdown."""
    rows = [("kind", "cases", *(str(verdict) for verdict in _ORDER))]
    rows += [(kind, *_numbers(by_sort)) for kind, by_sort in results.items()]
    rows.append(("all", *_numbers([result for by_sort in results.values() for result in by_sort])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def failures(results: Sequence[Result]) -> list[Result]:
    """The results that must not occur."""
    return [result for result in results if result.verdict in BAD]


def groups(results: Sequence[Result]) -> list[str]:
    """One line for each sort of failures, the most frequent first: their number, the first case, and what happened."""
    by_sort: dict[tuple[str, str], list[Result]] = {}
    for result in failures(results):
        by_sort.setdefault((result.verdict, _sort(result)), []).append(result)
    lines = []
    for (verdict, _), same in sorted(by_sort.items(), key=lambda item: -len(item[1])):
        first = same[0]
        lines.append(f"{len(same)} x {verdict}, first case {first.index} ({first.title}): {first.detail}")
    return lines


def _sort(result: Result) -> str:
    """What all failures of one sort have in common: the exception and its place, or the change of the file."""
    if result.verdict == Verdict.TRACEBACK:
        return re.sub(r"\d+|'[^']*'|\(.*\)", "", result.detail)
    return re.sub(r" is .*|\d+", "", result.title.split(": ", 1)[-1])


def printable(text: str) -> str:
    """`text` without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def keep(result: Result, scratch: Path, folder: Path) -> None:
    """Copy the files of a failed case into `folder`, with a text that says what happened."""
    shutil.rmtree(folder, ignore_errors=True)
    if scratch.is_dir():
        shutil.copytree(scratch, folder, symlinks=True, ignore=_special, ignore_dangling_symlinks=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "what_happened.txt").write_text(f"{result.title}\n{result.verdict}: {result.detail}\n", errors="replace")


def _special(folder: str, names: list[str]) -> list[str]:
    """The names of files that cannot be copied: pipes and devices."""
    paths = {name: Path(folder) / name for name in names}
    return [n for n, path in paths.items() if not (path.is_symlink() or path.is_file() or path.is_dir())]


def _numbers(results: Sequence[Result]) -> list[str]:
    counts = Counter(result.verdict for result in results)
    return [str(len(results)), *(str(counts[verdict]) for verdict in _ORDER)]
