"""Names that become files and folders, and names that are shown: both may come from somebody else's file."""

from __future__ import annotations

import unicodedata

from blocklora_jax.errors import UserError

_LONGEST = 100
# File systems count bytes, 255 at most, and suffixes are added to the name.
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
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def plain_name(name: str, what: str) -> str:
    """`name`, which is one ordinary file name on Linux, macOS and Windows alike.

    Args:
        name: from a file or a folder, unchecked.
        what: what the name is of, for the error, such as "the concept's name in concepts.yaml".

    Raises: UserError for separators, control characters, a dot in front, a dot or space at the end, any of <>:"|?*, a
        device of Windows, more than 100 characters, or nothing at all.

    >>> plain_name("my-dog 2", "the concept's name")
    'my-dog 2'
    """
    if fault := _fault(name):
        shown = repr(name if len(name) <= _LONGEST else name[:40] + "…")
        raise UserError(f"{what} {shown} cannot be the name of a file: it {fault}; use letters, digits, '-' and '_'")
    return name


def same_name(name: str) -> str:
    """A key that is equal for names which some file systems take for one: macOS and Windows ignore case.

    >>> same_name("Ada") == same_name("ada")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _fault(name: str) -> str:
    """What is wrong with a name, after "it"; empty if nothing is."""
    if not name.strip():
        return "is empty"
    if len(name) > _LONGEST:
        return f"has {len(name)} characters, more than {_LONGEST}"
    if any(unicodedata.category(c) in _UNSEEN for c in name):
        return "has control characters or invisible ones"
    if len(name.encode()) > _MOST_BYTES:
        return f"has {len(name.encode())} bytes in UTF-8, more than {_MOST_BYTES}"
    if found := next((c for c in name if c in _FORBIDDEN), None):
        return f"has {found!r} in it"
    if name.startswith("."):
        return "begins with a dot"
    if name[-1] in ". ":
        return "ends with a dot or a space"
    if name.split(".")[0].rstrip(" ").lower() in _DEVICES:
        return "is the name of a device on Windows"
    return ""
