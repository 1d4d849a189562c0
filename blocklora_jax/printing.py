"""Text from files and from users on its way to a terminal or into Markdown."""

from __future__ import annotations

import html
import re


def printable(text: object) -> str:
    r"""`text` without characters that move a cursor, colour a terminal, or turn the direction of writing.

    They are written as Python writes them.

    >>> print(printable("a\nb\x1b[2J"))
    a\nb\x1b[2J
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def one_line(text: object, longest: int = 4000) -> str:
    r"""`text` on one line of at most `longest` characters, see `printable`. Its beginning and its end stay.

    >>> one_line("be\n  careful")
    'be careful'
    >>> one_line("a" * 30 + "b" * 30, 40)
    'aaaaaaaaaaaaaaaaaaaa…bbbbbbbbbbbbbbbbbbbb'
    """
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= longest else f"{line[: longest // 2]}…{line[-(longest // 2) :]}"


def markdown_code(text: object) -> str:
    r"""`text` as code within a line or a table of Markdown; nothing in it is markup.

    >>> markdown_code("<ada> a|b")
    '`<ada> a\\|b`'
    """
    line = one_line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{line}{room}{fence}"


def markdown_text(text: object) -> str:
    r"""`text` within a line or a table of Markdown, with everything escaped that could be markup.

    >>> markdown_text("a_b <script>")
    'a\\_b &lt;script&gt;'
    """
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", html.escape(one_line(text), quote=False))
