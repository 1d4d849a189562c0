"""Texts that people write: prompts with places in them, and characters that cannot be written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from blocklora_jax.errors import UserError


def is_unicode(text: str) -> bool:
    """Whether there are no halves of characters in it, as Python reads bytes of a command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(texts: Sequence[Any], name: str) -> None:
    """Raises UserError for what is no text, or has halves of characters in it, which no tokenizer reads."""
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{name} must be texts, not {type(text).__name__}")
        if not is_unicode(text):
            raise UserError(f"{name}: {ascii(text)} is not valid Unicode")


def fill(template: str, text: str | None = None, **named: str) -> str:
    """`template` with `text` at every {}, and others at their {name}; all other braces stay, unlike with str.format.

    >>> fill("{first} and {}, {0} {", "a dog", first="ada")
    'ada and a dog, {0} {'
    """
    values = named if text is None else {"": text, **named}
    # At once: what is filled in may have braces of its own.
    return re.sub(r"\{(\w*)\}", lambda place: values.get(place[1], place[0]), template)
