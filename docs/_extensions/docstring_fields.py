"""Sphinx extension: turns the lines on arguments in our docstrings into fields.

Our docstrings say "name: what it is" and "Raises: UserError if …" in lines of their own. Sphinx would join such lines
to one paragraph.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

_NAMES = re.compile(r"(\w+(?:, \w+)*): (\S.*)")
_RAISES = re.compile(r"Raises:? (\w+)(.*)")
_CODE = re.compile(r"(`[^`]*`)")


def with_fields(lines: Iterable[str], parameters: Iterable[str]) -> Iterator[str]:
    """The lines of a docstring, with `:param name:` and `:raises error:` for lines that begin with one of these.

    parameters: the names that are arguments or fields.
    """
    known = set(parameters)
    names: list[str] = []
    text: list[str] = []

    def fields() -> Iterator[str]:
        for name in names:
            yield f":{name}: {text[0]}"
            yield from (f"    {line}" for line in text[1:])

    for line in [*lines, ""]:
        found, start = _field(line, known)
        if found or not line.strip() or line.startswith(">>>"):
            yield from fields()
            if found and not names:
                yield ""
            names, text = found, [start]
        if names and not found:
            # The text of a field goes on until an empty line.
            text.append(line.strip())
        elif not found:
            yield line


def _field(line: str, known: set[str]) -> tuple[list[str], str]:
    """The fields that a line begins, and their text; none for other lines."""
    if raised := _RAISES.fullmatch(line):
        return [f"raises {raised[1]}"], raised[2].lstrip(",: ")
    if (named := _NAMES.fullmatch(line)) and set(names := named[1].split(", ")) <= known:
        return [f"param {name}" for name in names], named[2]
    return [], ""


def without_bars(line: str) -> str:
    r"""The line with `|` marked as a plain sign, except in code and examples: `|x|` would be a substitution.

    >>> without_bars("|x| and `|y|`")
    '\\|x\\| and `|y|`'
    """
    if line.startswith((">>>", "...")):
        return line
    parts = _CODE.split(line)
    return "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def _process(_app: Any, _what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    try:
        parameters = list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        parameters = []
    lines[:] = with_fields([without_bars(line) for line in lines], parameters)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    # Before napoleon, which has the priority 500.
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True}
