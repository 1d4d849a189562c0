"""A first word that is no command: most likely one that is misspelt."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

# Old name -> new name; they work for one release.
RENAMED = {"fuse": "fit", "refit": "convert"}


def current_name(verb: str) -> str:
    """The verb, or its new name if it was renamed; that is said on stderr."""
    if verb not in RENAMED:
        return verb
    new = RENAMED[verb]
    print(f"note: `{verb}` is now called `{new}`; the old name goes with version 0.3", file=sys.stderr)
    return new


def is_verb(word: str) -> bool:
    """Whether a first word looks like a command: it is neither a flag nor a file, there or not.

    >>> is_verb("exprot"), is_verb("--prompt"), is_verb("ada.safetensors"), is_verb("runs/ada")
    (True, False, False, False)
    """
    return word[:1].isalpha() and not set(word) & set("./\\") and not Path(word).exists()


def unknown_verb(word: str, commands: Iterable[str], group: str = "") -> str:
    """What to say of it. group: whose command it is to be, such as "registry".

    >>> unknown_verb("exprot", ["info", "export"])
    "unknown command 'exprot': choose info, export; did you mean 'export'?"
    """
    commands = list(commands)
    close = get_close_matches(word.lower(), commands, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown command {f'{group} ' if group else ''}{word!r}: choose {', '.join(commands)}{guess}"
