"""The library's YAML file. A scan changes only what it must in the text, so comments and a person's edits stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.json_text import read_text_bytes
from blocklora_jax.io.printing import printable
from blocklora_jax.io.schema import Schema, Text, validated
from blocklora_jax.io.yaml_edit import Change, apply_changes, compose_yaml, dump_value, end_of, fields_of, plain_value
from blocklora_jax.library.entry import GUESSED, KINDS, Entry, Found

FILE = "library.yaml"
_VERSION_KEY, _ITEMS = "blocklora_library", "loras"
_LARGEST = 64 << 20
_HEAD = """\
# The LoRA files of this folder. `python -m merge library scan` made this list; `merge`, `fit`, `check`, `convert` and
# `export` take it, or the folder. Edit name, trigger, class_noun, kind, weight and use: the next scan keeps your
# values, and your comments. It writes what is under `found` anew.
#   trigger: the words that call this concept and nothing else
#   kind: person, object, scene or style; it decides the trigger's place in prompts
#   weight: in merges; fit and convert multiply it into their results. use: false leaves the file out
"""
_TUPLES = tuple(field.name for field in fields(Found) if str(field.type).startswith("tuple"))
_Word = Annotated[str, Field(max_length=4000)]


class _FoundSchema(Schema):
    name: Text = ""
    trigger: Text = ""
    class_noun: Text = ""
    kind: Text = ""
    words: list[_Word] = []
    base: Text = ""
    base_name: Text = ""
    format: Text = ""
    rank: int = 0
    layers: int = 0
    size: int = 0
    digest: Text = ""
    stamp: Text = ""
    problems: list[_Word] = []
    notes: list[_Word] = []


class _EntrySchema(Schema):
    file: Annotated[str, Field(min_length=1, max_length=4000)]
    name: Text | None = None
    trigger: Text | None = None
    class_noun: Text | None = None
    kind: Text | None = None
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    use: bool = True
    found: _FoundSchema = _FoundSchema()


def read_entries(path: Path) -> list[Entry]:
    """The entries of a library file. Raises UserError naming the entry and the field that are wrong."""
    return parse_entries(_text(path), str(path))


def parse_entries(text: str, source: str) -> list[Entry]:
    """The entries in a library's text. Raises UserError naming `source`."""
    entries: dict[str, Entry] = {}
    for node in _nodes(text, source):
        place = f"{source}, line {node.start_mark.line + 1}"
        entry = _entry(plain_value(node, place), place)
        if entry.file in entries:
            raise UserError(f"{place}: the file {printable(entry.file)} is listed twice: remove one of the two")
        entries[entry.file] = entry
    return list(entries.values())


def write_entries(path: Path, entries: Sequence[Entry]) -> None:
    """Write the library file, or change what is different in an existing one."""
    old = _text(path) if path.exists() else ""
    text = edited_text(old, entries, str(path)) if old.strip() else new_text(entries)
    if text != old:
        write_atomic(path, text.encode())


def new_text(entries: Sequence[Entry]) -> str:
    """A new library's text."""
    items = "".join(_item(entry, 0) for entry in entries)
    return f"{_HEAD}{_VERSION_KEY}: 1\n{_ITEMS}:{items or ' []'}\n"


def edited_text(text: str, entries: Sequence[Entry], source: str) -> str:
    """`text` with the values of `entries`: existing entries in their order, then new ones. Comments stay.

    An entry whose `file` changed must stand at its old place.
    """
    nodes, changes = _nodes(text, source), []
    for node, entry in zip(nodes, entries, strict=False):
        changes += _entry_changes(node, _entry(plain_value(node, source), source), entry)
    if added := entries[len(nodes) :]:
        items = fields_of(_root(text, source))[_ITEMS]
        column = nodes[0].start_mark.column - 2 if nodes else 0
        start = end_of(items) if nodes else items.start_mark.index
        changes.append(Change(start, end_of(items), "".join(_item(entry, max(0, column)) for entry in added)))
    return apply_changes(text, changes)


def _text(path: Path) -> str:
    try:
        return read_text_bytes(path, _LARGEST).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error


def _root(text: str, source: str) -> yaml.Node:
    root = compose_yaml(text, source)
    version = fields_of(root).get(_VERSION_KEY) if root is not None else None
    if root is None or version is None:
        raise UserError(
            f"{source} is not a library (it has no `{_VERSION_KEY}: 1`): `python -m merge library scan` makes one"
        )
    if version.value != "1":
        raise UserError(f"{source} is a library of version {version.value}; this program reads 1: update blocklora_jax")
    return root


def _nodes(text: str, source: str) -> list[yaml.MappingNode]:
    """The nodes of all entries."""
    items = fields_of(_root(text, source)).get(_ITEMS)
    if not isinstance(items, yaml.SequenceNode) or (items.value and items.flow_style):
        raise UserError(f"{source}: `{_ITEMS}:` must be a list, with `- file: …` for each file")
    if wrong := [node for node in items.value if not isinstance(node, yaml.MappingNode) or node.flow_style]:
        raise UserError(f"{source}, line {wrong[0].start_mark.line + 1}: write `- file: …` and its fields below it")
    return items.value


def _entry(value: Any, source: str) -> Entry:
    if isinstance(value, Mapping) and isinstance(value.get("weight"), int) and not isinstance(value["weight"], bool):
        value = {**value, "weight": float(value["weight"])}
    read = validated(_EntrySchema, _without_empty(value), source)
    values: dict[str, Any] = {n: tuple(v) if n in _TUPLES else v for n, v in dict(read.found).items()}
    found = Found(**values)
    given = {name: getattr(read, name) for name in GUESSED}
    entry = Entry(
        file=read.file,
        weight=read.weight,
        use=read.use,
        found=found,
        **{name: getattr(found, name) if text is None else text for name, text in given.items()},
    )
    if entry.kind and entry.kind not in KINDS:
        raise UserError(f"{source}: kind is {entry.kind!r}; it must be one of {', '.join(KINDS)}")
    return entry


def _without_empty(value: Any) -> Any:
    """`trigger:` without a value means an empty text."""
    if not isinstance(value, Mapping):
        return value
    return {name: "" if item is None and name in GUESSED else item for name, item in value.items()}


def _found_mapping(found: Found) -> dict[str, Any]:
    """The fields of `found` that say something. `name` is always there."""
    values = {n: list(v) if n in _TUPLES else v for n, v in vars(found).items()}
    return {name: value for name, value in values.items() if value or name == "name"}


def _item(entry: Entry, column: int) -> str:
    """An entry as a new item of the list, beginning with a line end."""
    values = {name: getattr(entry, name) for name in ("file", *GUESSED, "weight", "use")}
    lines = [f"{name}: {dump_value(value)}" for name, value in values.items()]
    lines += ["found:", f"  {dump_value(_found_mapping(entry.found), column + 4)}"]
    return f"\n{' ' * column}- " + f"\n{' ' * (column + 2)}".join(lines)


def _entry_changes(node: yaml.MappingNode, old: Entry, new: Entry) -> list[Change]:
    places, changes, column = fields_of(node), [], node.start_mark.column
    for name in ("file", *GUESSED):
        if getattr(old, name) != getattr(new, name) and name in places:
            value = places[name]
            # `trigger:` without a value has no place after the space.
            space = "" if value.end_mark.index > value.start_mark.index else " "
            changes.append(Change(value.start_mark.index, end_of(value), space + dump_value(getattr(new, name))))
    if old.found != new.found:
        block = f"\n{' ' * (column + 2)}{dump_value(_found_mapping(new.found), column + 2)}"
        if "found" in places:
            start = next(key for key, _ in node.value if key.value == "found").end_mark.index
            changes.append(Change(start, end_of(places["found"]), f":{block}"))
        else:
            changes.append(Change(end_of(node), end_of(node), f"\n{' ' * column}found:{block}"))
    return changes
