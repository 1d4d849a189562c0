"""Reads caption files, each as one line of visible text."""

from __future__ import annotations

import codecs
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable, visible_text

_MOST_BYTES = 1 << 16
# Byte order marks, the longest first, because the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_captions(paths: list[Path]) -> list[str]:
    """The text of each caption file, in UTF-8 or the encoding of its byte order mark; see `visible_text`.

    Raises: UserError naming every file that is not text, or whose encoding cannot be known.
    """
    captions, broken = [], []
    for path in paths:
        try:
            captions.append(_read(path))
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            broken.append(f"{printable(path.name)} ({reason})")
    if broken:
        raise UserError(
            f"{paths[0].parent}: cannot read {'; '.join(broken)}: open them in an editor and save them as UTF-8 text,"
            " or remove them"
        )
    return captions


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError("not a file")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES >> 10} kB: no caption")
    return visible_text(_decode(data))


def _decode(data: bytes) -> str:
    """Raises: ValueError for bytes that are not text, or text whose encoding could only be guessed."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte {data[error.start]:#04x} at {error.start}"
        raise ValueError(f"{byte} is not {encoding.removesuffix('-sig').upper()}") from error
    if "\0" in text:
        raise ValueError("it holds zero bytes: not text, or UTF-16 without a mark")
    if "\ufffd" in text:
        raise ValueError("it holds U+FFFD, the sign for lost letters")
    return text
