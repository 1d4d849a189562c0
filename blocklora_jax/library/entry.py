"""One file of a library: what a person may edit, and what a scan found."""

from __future__ import annotations

from dataclasses import dataclass, replace

# The fields of an `Entry` that a scan guesses. A person's changes to them are kept.
GUESSED = ("name", "trigger", "class_noun", "kind")
KINDS = ("person", "object", "scene", "style")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a scan found in a file's header, and in texts beside the file.

    name, trigger, class_noun, kind: guesses; "" if there is no clue.
    words: other words that may call the concept.
    base: a key of `layouts.families.table.FAMILIES`; "" if it is not known.
    base_name: the base model as the trainer called it.
    format: what the file is, such as "LoHa, kohya layout".
    rank: the largest rank of a layer; 0 if it is not known. layers: their number. size: bytes.
    digest: SHA-256 of the file; "" if it was not computed.
    stamp: size and time of the file and of the texts beside it. While it is the same, nothing is read again.
    problems: why the file cannot be used; empty if it can be. notes: what could not be read beside it.
    """

    name: str
    trigger: str = ""
    class_noun: str = ""
    kind: str = ""
    words: tuple[str, ...] = ()
    base: str = ""
    base_name: str = ""
    format: str = ""
    rank: int = 0
    layers: int = 0
    size: int = 0
    digest: str = ""
    stamp: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a library.

    file: its path below the library's folder, with "/".
    name, trigger, class_noun, kind: as in `AdapterInfo`; kind may be "".
    weight: its weight in merges. use: whether commands that take the whole library use it.
    found: what the last scan found.
    """

    file: str
    name: str
    trigger: str = ""
    class_noun: str = ""
    kind: str = ""
    weight: float = 1.0
    use: bool = True
    found: Found


def new_entry(file: str, found: Found) -> Entry:
    """The entry of a file that the library does not have yet: all guesses are taken."""
    return Entry(file=file, found=found, **{name: getattr(found, name) for name in GUESSED})


def rescanned(entry: Entry, found: Found) -> Entry:
    """`entry` with what a new scan found. Fields that a person changed since the last scan keep their value.

    >>> old = new_entry("a.safetensors", Found(name="a", trigger="sks"))
    >>> edited = replace(old, trigger="sks dog")
    >>> changed = rescanned(edited, Found(name="b", trigger="zwx"))
    >>> changed.name, changed.trigger
    ('b', 'sks dog')
    """
    untouched = [name for name in GUESSED if getattr(entry, name) == getattr(entry.found, name)]
    return replace(entry, found=found, **{name: getattr(found, name) for name in untouched})
