"""The lines that a command prints only if it was disturbed."""

from __future__ import annotations

import re

_BAR = re.compile(r"\d+%\||\b(step|it)/s|s/(step|it)\b")


def said_lines(text: str) -> list[str]:
    """The lines of `text` without progress bars and empty ones."""
    return [line.strip() for line in re.split(r"[\r\n]", text) if line.strip() and not _BAR.search(line)]


def new_lines(text: str, usual: str) -> list[str]:
    """The lines of `text` that are not in `usual`, ignoring numbers."""
    known = {_without_numbers(line) for line in said_lines(usual)}
    return [line for line in said_lines(text) if _without_numbers(line) not in known]


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "0", line)
