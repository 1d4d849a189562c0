"""Text from files and from users on its way to a terminal or into Markdown."""

from __future__ import annotations

import html
import re


def printable(text: object) -> str:
    r"""`text` on one line, without characters that move a cursor, colour a terminal, or turn the direction of writing.

    >>> printable("ada\x1b[31m\nwoman")
    'ada[31m woman'
    """
    return "".join(c for c in re.sub(r"\s+", " ", str(text)) if c.isprintable())


def markdown_code(text: object) -> str:
    r"""`text` as code within a line or a table of Markdown; nothing in it is markup.

    >>> markdown_code("<ada> a|b")
    '`<ada> a\\|b`'
    """
    line = printable(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{line}{room}{fence}"


def markdown_text(text: object) -> str:
    r"""`text` within a line or a table of Markdown, with everything escaped that could be markup.

    >>> markdown_text("a_b <script>")
    'a\\_b &lt;script&gt;'
    """
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", html.escape(printable(text), quote=False))
