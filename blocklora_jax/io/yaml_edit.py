"""Changes single values in a YAML text, so that comments, order and everything else stay as a person wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import repeated

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_WIDTH = 4096  # no lines are broken


class Change(NamedTuple):
    """Replace the characters from `start` to `end` by `text`."""

    start: int
    end: int
    text: str


def compose_yaml(text: str, source: str) -> yaml.Node | None:
    """The nodes of a YAML text, with their places in it. None for an empty text.

    Raises: UserError naming `source` for text that is not YAML, and for aliases, keys that occur twice or are no words.
    """
    try:
        root = yaml.compose(text, Loader=_LOADER)
        if root is not None:
            _check(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    return root


def plain_value(node: yaml.Node, source: str) -> Any:
    """The value of a node: text, number, list, mapping, … Raises UserError naming `source` for tags and wrong dates."""
    # The constructor alone, without a stream, serves both the C and the Python parser.
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{source}: {' '.join(str(error).split())}: write texts in quotation marks") from error


def fields_of(node: yaml.Node) -> dict[str, yaml.Node]:
    """The values of a mapping's fields, by key; {} for other nodes."""
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def end_of(node: yaml.Node) -> int:
    """The place after the last character of a node. (PyYAML counts the comments after a block as a part of it.)"""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return end_of(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def apply_changes(text: str, changes: Sequence[Change]) -> str:
    """`text` with all changes, which must not overlap."""
    for change in sorted(changes, reverse=True):
        text = text[: change.start] + change.text + text[change.end :]
    return text


def dump_value(value: Any, indent: int = 0) -> str:
    """A value as YAML on one line, or, for a mapping, as lines indented by `indent`, except the first."""
    if not isinstance(value, dict):
        flow = yaml.dump(value, Dumper=_DUMPER, allow_unicode=True, width=_WIDTH, default_flow_style=True)
        return flow.removesuffix("\n").removesuffix("\n...")
    lines = [f"{name}: {dump_value(item, indent + 2)}" for name, item in value.items()]
    return f"\n{' ' * indent}".join(lines)


def _check(node: yaml.Node) -> None:
    seen: set[int] = set()
    waiting: list[yaml.Node] = [node]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            raise ValueError("aliases (*name) are not supported: write the value itself")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
                raise ValueError("a key is a list or a mapping: it must be a word")
            if twice := repeated(key.value for key, _ in node.value):
                raise ValueError(f"a key occurs twice: {twice[0]!r}")
            waiting += [item for pair in node.value for item in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
