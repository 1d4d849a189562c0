"""Names for concepts that can be names of files and tokens, each once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping

_LONGEST = 60


def unique_names(wanted: Mapping[str, str], taken: Collection[str] = ()) -> dict[str, str]:
    """For each key a name made from the wanted text; a number is added to those that occur twice.

    >>> unique_names({"a": "Ann (v2)", "b": "ann v2"}, taken=("ann-v2",))
    {'a': 'ann-v2-2', 'b': 'ann-v2-3'}
    """
    names, used = {}, set(taken)
    for key, text in wanted.items():
        name, number = simple_name(text), 2
        unique = name
        while unique in used:
            unique, number = f"{name}-{number}", number + 1
        used.add(unique)
        names[key] = unique
    return names


def simple_name(text: str) -> str:
    """`text` as lower-case letters, digits, "-" and "_", beginning with a letter or digit.

    >>> simple_name("Élan — Style!")
    'elan-style'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9_]+", "-", plain)[:_LONGEST].strip("-_")
    return name or "lora"
