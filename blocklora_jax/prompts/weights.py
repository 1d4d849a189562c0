"""Weights of words in prompts: `(word)`, `(word:1.2)`, `[word]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from blocklora_jax.checks.bounds import check_number

_STEP = 1.1
_PARTS = re.compile(r"\\[()\[\]\\]|[(\[\])]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[^\\()\[\]:]+|.", re.DOTALL)
_OPENING = {")": "(", "]": "["}


class Span(NamedTuple):
    """A part of a prompt whose words have one weight."""

    text: str
    weight: float


@dataclass
class _Part:
    """A part while the prompt is read. opening: the bracket that it is; "" for text."""

    text: str
    weight: float = 1.0
    opening: str = ""


def weighted_spans(prompt: str) -> list[Span]:
    """The parts of a prompt with their weights. The empty prompt is one empty part.

    `(word)` multiplies the weight by 1.1, `[word]` divides it by 1.1, and `(word:1.5)` multiplies it by 1.5; weights
    can be nested. A backslash before a bracket makes it an ordinary character. A bracket without its partner is one
    too.

    Raises: UserError for a weight beyond the bounds of "prompt_weight".

    Source: the syntax of A1111's `parse_prompt_attention`.

    >>> weighted_spans("a (red:1.5) car :)")
    [Span(text='a ', weight=1.0), Span(text='red', weight=1.5), Span(text=' car :)', weight=1.0)]
    """
    parts: list[_Part] = []
    for piece in _PARTS.findall(prompt):
        if piece in "([":
            parts.append(_Part(piece, opening=piece))
        elif len(piece) == 2 and piece[0] == "\\":
            parts.append(_Part(piece[1]))
        elif not _close(parts, piece):
            parts.append(_Part(piece))
    return _merged(parts)


def _close(parts: list[_Part], piece: str) -> bool:
    """Whether `piece` closes the last open bracket. If so, the parts within it get its weight."""
    if piece[-1] not in _OPENING or (len(piece) > 1 and piece[0] != ":"):
        return False
    start = next((i for i in reversed(range(len(parts))) if parts[i].opening), None)
    if start is None or parts[start].opening != _OPENING[piece[-1]]:
        return False
    factor = float(piece[1:-1]) if len(piece) > 1 else (_STEP if piece == ")" else 1 / _STEP)
    parts[start] = _Part("")
    for part in parts[start:]:
        part.weight *= factor
    return True


def _merged(parts: list[_Part]) -> list[Span]:
    """Neighbours of equal weight as one span."""
    spans: list[Span] = []
    for part in parts:
        if not part.text:
            continue
        check_number("prompt_weight", part.weight, shown=f"the weight of {part.text.strip()[:40]!r}")
        if spans and spans[-1].weight == part.weight:
            spans[-1] = Span(spans[-1].text + part.text, part.weight)
        else:
            spans.append(Span(part.text, part.weight))
    return spans or [Span("", 1.0)]
