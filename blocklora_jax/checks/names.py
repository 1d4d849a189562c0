"""Checks names that become names of files and folders. They may come from another person's file."""

from __future__ import annotations

import unicodedata

from blocklora_jax.errors import UserError

_LONGEST = 100
# File systems allow 255 bytes, and suffixes are added to the name.
_MOST_BYTES = 200
_FORBIDDEN = frozenset('/\\<>:"|?*')
_DEVICES = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"),
    ]
)
# Control characters, invisible format characters, lone surrogates, and separators of lines and paragraphs.
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def plain_name(name: str, what: str) -> str:
    """`name`, if it can be a file name on Linux, macOS and Windows.

    Args:
        name: from a file or a folder, unchecked.
        what: what has this name, for the error, such as "the concept's name in concepts.yaml".

    Raises: UserError for an empty name, separators, control characters, a dot at the beginning, a dot or space at the
        end, any of <>:"|?*, the name of a device on Windows, or more than 100 characters.

    >>> plain_name("my-dog 2", "the concept's name")
    'my-dog 2'
    """
    if fault := _fault(name):
        shown = repr(name if len(name) <= _LONGEST else name[:40] + "…")
        raise UserError(f"{what} {shown} cannot be the name of a file: it {fault}; use letters, digits, '-' and '_'")
    return name


def same_name(name: str) -> str:
    """A key that is equal for names that some file systems do not distinguish: macOS and Windows ignore case.

    >>> same_name("Ada") == same_name("ada")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _fault(name: str) -> str:
    """What is wrong with a name, to follow "it"; empty if nothing is wrong."""
    if not name.strip():
        return "is empty"
    if len(name) > _LONGEST:
        return f"has {len(name)} characters, more than {_LONGEST}"
    if any(unicodedata.category(c) in _INVISIBLE for c in name):
        return "has control characters or invisible characters"
    if len(name.encode()) > _MOST_BYTES:
        return f"has {len(name.encode())} bytes in UTF-8, more than {_MOST_BYTES}"
    if forbidden := next((c for c in name if c in _FORBIDDEN), None):
        return f"has {forbidden!r} in it"
    if name.startswith("."):
        return "begins with a dot"
    if name[-1] in ". ":
        return "ends with a dot or a space"
    if name.split(".")[0].rstrip(" ").lower() in _DEVICES:
        return "is the name of a device on Windows"
    return ""
