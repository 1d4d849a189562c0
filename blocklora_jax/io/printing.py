"""Makes text from files and users safe to show in a terminal or in Markdown."""

from __future__ import annotations

import html
import re
import unicodedata

# Invisible letters and marks that are not in Unicode's category Cf.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Sequences that colour a terminal or move its cursor. Removed as a whole: the rest would look like text.
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
# Characters that join emoji and choose their look. CLIP's vocabulary has them in emoji.
_JOINERS = "\u200d\ufe0f"


def printable(text: object) -> str:
    r"""`text` without characters that move a cursor, colour a terminal, or reverse the direction of writing.

    They are replaced by Python's escapes.

    >>> print(printable("a\nb\x1b[2J"))
    a\nb\x1b[2J
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def one_line(text: object, longest: int = 4000) -> str:
    r"""`text` on one line of about `longest` characters at most; see `printable`. The middle of a longer text is cut.

    >>> one_line("be\n  careful")
    'be careful'
    >>> one_line("a" * 30 + "b" * 30, 40)
    'aaaaaaaaaaaaaaaaaaaa…bbbbbbbbbbbbbbbbbbbb'
    """
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= longest else f"{line[: longest // 2]}…{line[-(longest // 2) :]}"


def visible_text(text: str) -> str:
    r"""`text` on one line, without invisible characters: control and zero-width characters, soft hyphens, …

    Any run of white space becomes one space. Joiners are kept within emoji.

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
    r"""A text from the header of another program's file, as one line that can be shown and stored. See `visible_text`.

    >>> plain_text("\x1b[31msks\n dog\x1b[0m")
    'sks dog'
    """
    seen = "".join(c for c in visible_text(text) if c.isprintable()) if isinstance(text, str) else ""
    return seen[:longest].strip()


def markdown_code(text: object) -> str:
    r"""`text` as code within a line or a table of Markdown. Nothing in it is read as markup.

    >>> markdown_code("<ada> a|b")
    '`<ada> a\\|b`'
    """
    line = one_line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{line}{room}{fence}"


def markdown_block(code: str, language: str) -> str:
    """Lines of code as a block of Markdown. The code may hold backticks."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", code)), 3)
    return f"{fence}{language}\n{code}\n{fence}"


def markdown_text(text: object) -> str:
    r"""`text` for a line or a table of Markdown. Everything that could be markup is escaped.

    >>> markdown_text("a_b <script>")
    'a\\_b &lt;script&gt;'
    """
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", html.escape(one_line(text), quote=False))
