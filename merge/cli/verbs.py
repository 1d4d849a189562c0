"""The first word of `python -m merge`: a command, an old name of one, or a file."""

from __future__ import annotations

import sys
from pathlib import Path

# Old name -> new name. Old names work for one release.
RENAMED = {"fuse": "fit", "refit": "convert"}


def current_name(verb: str) -> str:
    """The command's name, or its new name if it was renamed. Then a note is printed to stderr."""
    if verb not in RENAMED:
        return verb
    new = RENAMED[verb]
    print(f"note: `{verb}` is now called `{new}`; the old name will be removed in version 0.3", file=sys.stderr)
    return new


def is_verb(word: str) -> bool:
    """Whether a first word looks like a command's name: not like a flag or a file, and not an existing file.

    >>> is_verb("exprot"), is_verb("--prompt"), is_verb("ada.safetensors"), is_verb("runs/ada")
    (True, False, False, False)
    """
    return word[:1].isalpha() and not set(word) & set("./\\") and not Path(word).exists()
