"""The tokens that call concepts: "<ada>"."""

from __future__ import annotations

import re

# In lower case: CLIP's tokenizers know no capital letters.
CONCEPT_TOKEN = re.compile(r"<[a-z0-9][a-z0-9_-]*>")


def concept_token(name: str) -> str:
    """The token of the concept `name`.

    >>> concept_token("ada")
    '<ada>'
    """
    return f"<{name}>"


def is_concept_token(text: str) -> bool:
    """Whether `text` is one token as prompts can have it."""
    return CONCEPT_TOKEN.fullmatch(text) is not None
