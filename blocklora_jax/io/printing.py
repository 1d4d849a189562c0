"""Text from files and from users on its way to a terminal or into Markdown."""

from __future__ import annotations

import html
import re
import unicodedata

# Letters and marks that show nothing; Unicode's category Cf has the others.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# What colours a terminal or moves its cursor; without its first character it would be read as text.
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
# They join emoji and choose their look: CLIP's vocabulary has them there.
_JOINERS = "\u200d\ufe0f"


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


def visible_text(text: str) -> str:
    r"""`text` on one line, without what nobody sees: control and zero-width characters, soft hyphens, …

    Spaces of every kind become one ordinary space. Joiners stay where emoji are made of them.

    >>> visible_text("a\u00a0photo\u200b of\n <a\u00adda>\ufeff")
    'a photo of <ada>'
    """
    seen: list[str] = []
    for c in _ESCAPES.sub("", text):
        if c.isspace():
            seen.append(" ")
        elif c in _JOINERS:
            seen += [c] if seen and (seen[-1] == "\ufe0f" or unicodedata.category(seen[-1]) in ("So", "Sk")) else []
        elif unicodedata.category(c) not in ("Cc", "Cf", "Cs") and c not in _BLANKS:
            seen.append(c)
    return " ".join("".join(seen).split())


def plain_text(text: object, longest: int = 1000) -> str:
    r"""What a header of another program says, as one line that can be shown and stored: see `visible_text`.

    >>> plain_text("\x1b[31msks\n dog\x1b[0m")
    'sks dog'
    """
    seen = "".join(c for c in visible_text(text) if c.isprintable()) if isinstance(text, str) else ""
    return seen[:longest].strip()


def markdown_code(text: object) -> str:
    r"""`text` as code within a line or a table of Markdown; nothing in it is markup.

    >>> markdown_code("<ada> a|b")
    '`<ada> a\\|b`'
    """
    line = one_line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{line}{room}{fence}"


def markdown_block(code: str, language: str) -> str:
    """Lines of code as a block of Markdown, whatever backticks are in them."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", code)), 3)
    return f"{fence}{language}\n{code}\n{fence}"


def markdown_text(text: object) -> str:
    r"""`text` within a line or a table of Markdown, with everything escaped that could be markup.

    >>> markdown_text("a_b <script>")
    'a\\_b &lt;script&gt;'
    """
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", html.escape(one_line(text), quote=False))
