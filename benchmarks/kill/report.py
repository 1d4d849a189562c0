"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 6


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    lines = [tuple(map(str, row)) for row in rows]
    widths = [max(len(line[i]) for line in [tuple(headings), *lines]) for i in range(len(headings))]
    rule = ["-" * width for width in widths]
    for line in (headings, rule, *lines):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
    print(flush=True)


def print_problems(problems: Mapping[str, Sequence[str]]) -> None:
    """Print the first problems of each row."""
    for name, lines in problems.items():
        for line in lines[:SHOWN]:
            print(f"{name}: {line}")
        if len(lines) > SHOWN:
            print(f"{name}: and {len(lines) - SHOWN} more")
    print(flush=True)
