"""Values that a field of JSON should not have, and texts that are not valid JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

DEEP = 100_000


class Wrong(NamedTuple):
    """A value, in words and as JSON text. It is a text, because `json.dumps` cannot write some of them."""

    words: str
    text: str

    @property
    def value(self) -> Any:
        """The value as Python reads it. Raises RecursionError for deeply nested ones."""
        return json.loads(self.text)


def _wrong(words: str, value: Any) -> Wrong:
    return Wrong(words, json.dumps(value))


WRONG_VALUES: tuple[Wrong, ...] = (
    _wrong("null", None), _wrong("true", True), _wrong("false", False), _wrong("0", 0), _wrong("-1", -1),
    _wrong("a fraction", 3.7), _wrong("10^9", 10**9), _wrong("10^20", 10**20), _wrong("-10^20", -(10**20)),
    Wrong("10^400", "1" + "0" * 400), Wrong("10^5000", "1" + "0" * 5000), Wrong("1e400", "1e400"), Wrong("NaN", "NaN"),
    Wrong("-Infinity", "-Infinity"), _wrong("no text", ""), _wrong("a word", "x"), _wrong("a number as text", "1"),
    _wrong("escape sequences", "\x1b[31mred\x1b]0;owned\x07"), _wrong("lines", "one\ntwo\r\nthree"),
    _wrong("a path upwards", "../../escaped"), _wrong("an absolute path", "/tmp/escaped"), _wrong("a NUL", "a\0b"),
    Wrong("half a character", '"\\ud800"'), _wrong("the other direction", "abc\u202egnp"),
    _wrong("100,000 letters", "x" * 100_000),
    _wrong("an empty list", []), _wrong("a list of a number", [1]), _wrong("a list of text", ["x"]),
    _wrong("nested lists", [[[1]]]),
    _wrong("an empty object", {}), _wrong("an object", {"a": 1}), _wrong("a list of 100,000", [0] * 100_000),
    Wrong("lists 100,000 deep", "[" * DEEP + "]" * DEEP),
    Wrong("objects 1,000 deep", '{"a":' * 1000 + "1" + "}" * 1000),
)  # fmt: skip


def with_value(value: Any, path: tuple[Any, ...], text: str) -> str:
    """`value` as JSON text with `text` at `path`."""
    mark = "\x00here\x00"
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = mark
    return json.dumps(copy).replace(json.dumps(mark), text)


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """`value` without what is at `path`."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return copy


def fields_of(value: Any, depth: int = 3) -> list[tuple[Any, ...]]:
    """The paths of all fields of objects, and of the first item of lists, down to `depth`."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    paths: list[tuple[Any, ...]] = []
    for key, item in items:
        paths.append((key,))
        if depth > 1:
            paths += [(key, *rest) for rest in fields_of(item, depth - 1)]
    return paths


def twice(value: dict[str, Any], key: str, text: str, first: bool) -> str:
    """`value` as JSON text with `key` twice: with its own value, and before or after that with `text`."""
    whole, extra = json.dumps(value)[1:-1], f"{json.dumps(key)}: {text}"
    return "{" + (f"{extra}, {whole}" if first else f"{whole}, {extra}") + "}"


# Texts that are not a JSON object, or not a valid one, for any file.
NO_JSON: Mapping[str, Callable[[str], bytes]] = {
    "no JSON": lambda text: b"hello",
    "nothing": lambda text: b"",
    "blanks": lambda text: b"   \n",
    "null": lambda text: b"null",
    "a number": lambda text: b"5",
    "a list": lambda text: b"[]",
    "a text": lambda text: b'"x"',
    "true": lambda text: b"true",
    "an empty object": lambda text: b"{}",
    "lists 100,000 deep": lambda text: b"[" * DEEP,
    "objects 100,000 deep": lambda text: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a deep field": lambda text: (text.rstrip()[:-1] + ', "deep": ' + "[" * DEEP + "]" * DEEP + "}").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "no UTF-8": lambda text: text.encode()[:-2] + b"\xff\xfe}",
    "a NUL at the end": lambda text: text.encode() + b"\0",
    "two objects": lambda text: (text + text).encode(),
    "a comma too many": lambda text: (text.rstrip()[:-1] + ",}").encode(),
    "a comment": lambda text: ("// note\n" + text).encode(),
    "binary": lambda text: bytes(range(256)),
}
