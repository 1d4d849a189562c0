r"""PEFT's patterns of layers (`alpha_pattern`): regular expressions from a file, matched in bounded time.

A pattern is matched as `(.*\.)?(pattern)$`. Programs write plain names, and there may be many of them. Other regular
expressions are accepted only if matching cannot take long: no repetition inside a repetition, at most two repetitions
and one group, and only a few such patterns.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

_MOST, _MOST_SPECIAL, _LONGEST = 2000, 8, 200
_PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")
# Names, sets of characters, groups that are not repeated, and repeated single characters.
_SAFE = re.compile(r"(?:[\w-]|\\[.dw_-]|\.|\^|\$|\[\^?[\w.-]+\]|\((?:\?:)?|\)(?![*+?{])|\||(?<![(|^])[*+?](?![*+?{]))*")


def check_patterns(patterns: Collection[object]) -> str | None:
    """Why these patterns are refused, naming one of them; None if they are accepted."""
    if len(patterns) > _MOST:
        return f"{len(patterns)} patterns are more than {_MOST}"
    special = 0
    for pattern in patterns:
        if not isinstance(pattern, str) or len(pattern) > _LONGEST or not _is_safe(pattern):
            return f"the pattern {str(pattern)[:60]!r} is more than names of layers with a few wildcards"
        special += not _PLAIN.fullmatch(pattern)
    return f"{special} patterns with wildcards are more than {_MOST_SPECIAL}" if special > _MOST_SPECIAL else None


def matches(pattern: str, name: str) -> bool:
    """Whether PEFT's `pattern` matches the layer with PyTorch's name `name`. The pattern must have been checked.

    Source: peft `get_pattern_key`.
    """
    return _compiled(pattern).match(name) is not None


def matches_whole(pattern: str, name: str) -> bool:
    """Whether `pattern`, which must have been checked, matches all of PyTorch's name `name`.

    Source: peft `IA3Model._check_target_module_feedforward`.
    """
    return re.fullmatch(pattern, name) is not None


@lru_cache(maxsize=_MOST)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _is_safe(pattern: str) -> bool:
    if _PLAIN.fullmatch(pattern):
        return True
    repeats, branches = len(re.findall(r"[*+?]", pattern)) - pattern.count("(?:"), pattern.count("|")
    if not _SAFE.fullmatch(pattern) or repeats > 2 or branches > 8 or pattern.count("(") > 1:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
