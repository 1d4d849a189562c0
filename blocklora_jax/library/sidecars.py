"""Texts that programs write beside a LoRA file: Civitai's and A1111's JSON, and plain text.

| file, beside `ann.safetensors` | written by | what is read |
|---|---|---|
| `ann.civitai.info` | Civitai Helper | `trainedWords`, `baseModel`, the model's tags |
| `ann.json` | A1111 | "activation text", "sd version", "description" |
| `ann.metadata.json` | LoRA Manager | the same as `.civitai.info`, below "civitai" |
| `ann.txt` | people | the first line, if it is short |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json, read_text_bytes
from blocklora_jax.io.printing import plain_text

ENDINGS = (".civitai.info", ".json", ".metadata.json", ".txt")
_LARGEST = 4 << 20
# A longer text describes the file, and is no trigger.
_LONGEST_TRIGGER = 200


class Sidecar(NamedTuple):
    """What the texts beside a file say. words: those that call the concept. tags: of the concept. base: its base."""

    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base: str = ""


def sidecar_files(path: Path) -> list[Path]:
    """The files beside `path` that may describe it and that exist."""
    return [file for ending in ENDINGS if (file := path.with_name(path.stem + ending)).is_file()]


def read_sidecars(path: Path) -> tuple[Sidecar, list[str]]:
    """What the texts beside `path` say, and a note for each that cannot be read."""
    words, tags, base, notes = [], [], "", []
    for file in sidecar_files(path):
        try:
            found = _read_text(file) if file.suffix == ".txt" else _read_json(file)
        except UserError as error:
            notes.append(str(error))
            continue
        words += found.words
        tags += found.tags
        base = base or found.base
    return Sidecar(tuple(dict.fromkeys(words)), tuple(dict.fromkeys(tags)), base), notes


def _read_text(file: Path) -> Sidecar:
    lines = read_text_bytes(file, _LARGEST).decode("utf-8-sig", errors="replace").splitlines()
    first = plain_text(next((line for line in lines if line.strip()), ""))
    label, colon, rest = first.partition(":")
    if colon and label.lower().strip() in ("trigger", "triggers", "trigger word", "trigger words", "activation text"):
        first = rest.strip()
    is_trigger = first and len(first) <= _LONGEST_TRIGGER and not first.startswith(("http://", "https://"))
    return Sidecar(words=tuple(split_words(first)) if is_trigger else ())


def _read_json(file: Path) -> Sidecar:
    value = parse_json(read_text_bytes(file, _LARGEST), str(file), infinity=True)
    if not isinstance(value, Mapping):
        return Sidecar()
    inner = value.get("civitai")
    value = {**value, **inner} if isinstance(inner, Mapping) else value
    model = value.get("model")
    words = [word for text in _texts(value.get("trainedWords")) for word in split_words(text)]
    words += [word for text in _texts(value.get("activation text")) for word in split_words(text)]
    tags = [*_texts(value.get("tags")), *_texts(model.get("tags") if isinstance(model, Mapping) else None)]
    base = plain_text(value.get("baseModel") or value.get("base_model") or value.get("sd version"))
    return Sidecar(tuple(words), tuple(plain_text(tag).lower() for tag in tags), base)


def split_words(text: str) -> Iterator[str]:
    """The parts of a text between commas, each as one plain line, without A1111's `<lora:name:1>`.

    >>> list(split_words("ohwx woman, <lora:ann:1>, smile"))
    ['ohwx woman', 'smile']
    """
    for part in plain_text(text).split(","):
        word = part.strip().strip('"')
        if word and len(word) <= _LONGEST_TRIGGER and not word.startswith(("<lora:", "<lyco:")):
            yield word


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
