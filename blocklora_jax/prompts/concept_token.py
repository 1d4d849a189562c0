"""The form of concept tokens, such as "<ada>"."""

from __future__ import annotations

import re

# Only lower case, because CLIP's tokenizers turn capital letters into small ones.
CONCEPT_TOKEN = re.compile(r"<[a-z0-9][a-z0-9_-]*>")


def concept_token(name: str) -> str:
    """The token of the concept `name`.

    >>> concept_token("ada")
    '<ada>'
    """
    return f"<{name}>"


def is_concept_token(text: str) -> bool:
    """Whether `text` is a valid concept token."""
    return CONCEPT_TOKEN.fullmatch(text) is not None
