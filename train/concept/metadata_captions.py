"""Captions from a metadata.jsonl, the file that the "imagefolder" format of the datasets library has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blocklora_jax.checks.names import same_name
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json, read_text_bytes
from blocklora_jax.io.printing import printable, visible_text

METADATA = "metadata.jsonl"
_MOST_BYTES, _MOST_NAMED = 64 << 20, 5


def read_metadata(folder: Path, pictures: Iterable[Path]) -> dict[Path, str]:
    """The text of each of `pictures` that `folder`/metadata.jsonl has; empty if there is no such file.

    Every line is a JSON object with "file_name" and "text". A text that is null or missing is no caption. Lines of
    other files are ignored, and a warning names them.

    Raises: UserError for a file that cannot be read, and a line that is no such object or names a file again.
    """
    path = folder / METADATA
    if not path.exists():
        return {}
    by_name = {same_name(picture.name): picture for picture in pictures}
    texts: dict[Path, str] = {}
    named: set[str] = set()
    unknown: list[str] = []
    for number, line in enumerate(read_text_bytes(path, _MOST_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{printable(str(path))}, line {number}"
        name, text = _entry(parse_json(line, where), where)
        key = same_name(name.removeprefix("./"))
        if key in named:
            raise UserError(f"{where}: {printable(name)} has a line already: keep one")
        named.add(key)
        if key not in by_name:
            unknown.append(printable(name))
        elif text is not None:
            texts[by_name[key]] = visible_text(text)
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        shown = ", ".join(unknown[:_MOST_NAMED])
        warnings.warn(f"{printable(str(path))}: ignored: {shown}{more} (no picture of that name)", stacklevel=2)
    return texts


def _entry(value: Any, where: str) -> tuple[str, str | None]:
    """The name and the text of a line. Raises: UserError if it has no name, or another type of text."""
    name = value.get("file_name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise UserError(f'{where} must be like {{"file_name": "a.png", "text": "a photo of <ada> woman"}}')
    text = value.get("text")
    if text is not None and not isinstance(text, str):
        raise UserError(f"{where}: the text of {printable(name)} must be a text in quotes")
    return name, text
