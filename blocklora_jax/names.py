"""Names of concepts, which become names of files and folders."""

from __future__ import annotations

import re

from blocklora_jax.errors import UserError

MOST_CHARACTERS = 100
_FORBIDDEN = frozenset('<>:"|?*/\\')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def plain_name(name: str, what: str) -> str:
    """`name`, if it is the name of one ordinary file on Linux, macOS and Windows alike.

    Args:
        name: of a concept, as a user or a file gives it.
        what: what it names, for the message ("the concept").

    Raises:
        UserError: it is empty or too long, has separators, control characters or one of `<>:"|?*`, begins with a dot, ends
            with a dot or a space, or is the name of a device of Windows.
    """
    wrong = not name or len(name) > MOST_CHARACTERS or not name.isprintable() or _FORBIDDEN & set(name)
    if wrong or name.startswith((".", " ")) or name.endswith((".", " ")) or _DEVICES.fullmatch(name):
        shown = name[:MOST_CHARACTERS]
        raise UserError(
            f"{what} is named {shown!r}, which cannot name a file: use letters, digits, '-' and '_', at most"
            f" {MOST_CHARACTERS} of them"
        )
    return name
