"""Texts that users write: checks of their characters, and templates with places to fill."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from blocklora_jax.errors import UserError


def is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogates. Python makes them from bytes of a command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(texts: Sequence[Any], name: str) -> None:
    """Raises UserError for values that are not text, or that have lone surrogates, which no tokenizer can read."""
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{name} must be texts, not {type(text).__name__}")
        if not is_unicode(text):
            raise UserError(f"{name}: {ascii(text)} is not valid Unicode")


def fill(template: str, text: str | None = None, **named: str) -> str:
    """`template` with `text` in place of {}, and `named` in place of {name}. Unlike str.format, it keeps other braces.

    >>> fill("{first} and {}, {0} {", "a dog", first="ada")
    'ada and a dog, {0} {'
    """
    values = named if text is None else {"": text, **named}
    # In one pass, because the filled-in texts may have braces too.
    return re.sub(r"\{(\w*)\}", lambda place: values.get(place[1], place[0]), template)
