"""Real English sentences that every Python has: those of its own documentation."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

# A capital, plain words, a full stop: no code, no lists.
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'()-]{40,160}[.!?]")


def real_sentences(count: int) -> list[str]:
    """The first `count` different sentences; there are some five hundred."""
    pieces = (re.sub(r"\s+", " ", p).strip() for text in topics.values() for p in re.split(r"(?<=[.!?])\s+", text))
    return list(dict.fromkeys(piece for piece in pieces if _SENTENCE.fullmatch(piece)))[:count]
