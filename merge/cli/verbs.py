"""The first word of `python -m merge`: a command or a file."""

from __future__ import annotations

from pathlib import Path


def is_verb(word: str) -> bool:
    """Whether a first word looks like a command's name: not like a flag or a file, and not an existing file.

    >>> is_verb("exprot"), is_verb("--prompt"), is_verb("ada.safetensors"), is_verb("runs/ada"), is_verb("hub:ada")
    (True, False, False, False, False)
    """
    return word[:1].isalpha() and not set(word) & set("./\\:") and not Path(word).exists()
