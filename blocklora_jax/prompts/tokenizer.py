"""Turns prompts into token ids. Concept tokens in them stand for one or more trained vectors."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from blocklora_jax.errors import UserError
from blocklora_jax.prompts.clip_tokenizer import TokenizerFiles
from blocklora_jax.prompts.concept_token import CONCEPT_TOKEN, is_concept_token


class Piece(NamedTuple):
    """A part of a prompt: its ids, and its name if it is a concept token."""

    ids: list[int]
    name: str | None


def unit_names(name: str, vectors: int) -> list[str]:
    """The names of a concept token's vectors, as in diffusers' textual inversion.

    >>> unit_names("<p1>", 3)
    ['<p1>', '<p1>_1', '<p1>_2']
    """
    return [name, *(f"{name}_{index}" for index in range(1, vectors))]


def token_pattern(names: Iterable[str]) -> str:
    """A regular expression that finds concept tokens in upper or lower case. Longer tokens come first.

    Only ASCII letters match in both cases: "ſ" does not match "s".

    >>> re.sub(token_pattern(["<ada>"]), "Eve", "<ADA> and <ada>'s dog")
    "Eve and Eve's dog"
    """
    return f"(?ai:{'|'.join(re.escape(name) for name in sorted(names, key=len, reverse=True))})"


class Tokenizer:
    """A CLIP tokenizer. It turns prompts into ids [b, t] with start, end and padding tokens as the model needs them.

    Args:
        folder: tokenizer files of transformers 4 or 5.
        table_rows: rows of the text encoder's token table. Ids of concept tokens begin there. None: the number of the
            tokenizer's tokens.
        positions: positions of the text encoder. None: the length in the tokenizer's config.

    Raises:
        UserError: there is no tokenizer in `folder`, or it does not fit the text encoder.
    """

    def __init__(self, folder: str | Path, table_rows: int | None = None, positions: int | None = None):
        self.files = TokenizerFiles.read(folder)
        self.table_rows = len(self.files) if table_rows is None else table_rows
        if len(self.files) > self.table_rows:
            raise UserError(
                f"{folder} has {len(self.files)} tokens, but the text encoder's table has only {self.table_rows} rows:"
                " they do not belong to the same model"
            )
        self.length = _prompt_length(self.files, positions, str(folder))
        self._own = _multi_vector_tokens(self.files.added)

    def encode(self, prompts: Sequence[str], tokens: Mapping[str, int] | None = None) -> Int[np.ndarray, "b t"]:
        """Token ids of `prompts`, int32 [b, t], padded to the model's length.

        A concept token has as many positions as vectors, with ids from `table_rows` on in the order of `tokens`. It may
        adjoin other text ("<p1>'s dog"), and is found in upper and lower case.

        Args:
            prompts: any text.
            tokens: concept token -> number of its vectors.

        Warns:
            UserWarning: a prompt has a `<name>` that is not a known token.

        Raises:
            UserError: a prompt is too long (the message names the words that would be lost), or a token's name is not
                valid.

        Source: diffusers `load_textual_inversion` and `maybe_convert_prompt` give the same ids.
        """
        ids = {**self._own, **self.token_ids(tokens or {})}
        rows = [self._encode_one(prompt, ids) for prompt in prompts]
        return np.asarray(rows, np.int32).reshape(len(rows), self.length)

    def token_ids(self, tokens: Mapping[str, int]) -> dict[str, list[int]]:
        """The ids of each concept token's vectors: their rows if they are appended to the token table in this order.

        Raises:
            UserError: a name is not `<name>` in lower case, or is already in the vocabulary; or a token has no vectors.
        """
        ids, next_id = {}, self.table_rows
        for name, vectors in tokens.items():
            if not is_concept_token(name):
                raise UserError(
                    f"concept token {name!r} must look like '<name>': lower-case letters (CLIP ignores case), digits,"
                    " '-' and '_' between angle brackets"
                )
            if vectors < 1:
                raise UserError(f"concept token {name!r} has {vectors} vectors; it needs at least one")
            known = {*self.files.vocabulary, *self.files.added}
            names = [form for unit in unit_names(name, vectors) for form in (unit, unit + "</w>")]
            if taken := [form for form in names if form in known]:
                raise UserError(f"concept token {name!r}: the tokenizer already has {taken[0]!r}; choose another name")
            ids[name] = list(range(next_id, next_id + vectors))
            next_id += vectors
        return ids

    def save(self, folder: str | Path, tokens: Mapping[str, int] | None = None) -> None:
        """Write the tokenizer with `tokens` added. They have the same ids as in `encode`."""
        names = [unit for name, ids in self.token_ids(tokens or {}).items() for unit in unit_names(name, len(ids))]
        self.files.with_tokens(names, self.table_rows).write(folder)

    @cached_property
    def _clip(self) -> Any:
        # Imported here, because importing transformers takes longer than everything else.
        from transformers import CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            self.files.write(folder)
            return CLIPTokenizer.from_pretrained(folder)

    def _encode_one(self, prompt: str, ids: Mapping[str, list[int]]) -> list[int]:
        pieces = self._split(prompt, ids)
        body = [index for piece in pieces for index in piece.ids]
        excess = len(body) + 2 - self.length
        if excess > 0:
            raise UserError(
                f"prompt too long by {excess} tokens (it has {len(body) + 2}, the model reads {self.length}):"
                f" {self._tail(pieces, self.length - 2)!r} would be lost; shorten {prompt!r}"
            )
        return self.frame(body)

    def frame(self, body: Sequence[int]) -> list[int]:
        """`body`, of at most `length` - 2 ids, with start, end and padding tokens."""
        clip = self._clip
        ids = [clip.bos_token_id, *body, clip.eos_token_id]
        return ids + [clip.pad_token_id] * (self.length - len(ids))

    def pieces(self, prompt: str, tokens: Mapping[str, int]) -> list[Piece]:
        """The parts of a prompt of any length, without start and end tokens. Warns, raises: as `encode`."""
        return self._split(prompt, {**self._own, **self.token_ids(tokens)})

    def _split(self, prompt: str, ids: Mapping[str, list[int]]) -> list[Piece]:
        # The group in the pattern keeps the names in the result, so that text and names alternate.
        parts = re.split(f"({token_pattern(ids)})", prompt) if ids else [prompt]
        known = {**ids, **{name: None for name in self.files.added if is_concept_token(name)}}
        for name in CONCEPT_TOKEN.findall("\n".join(parts[::2]).lower()):
            if name not in known:
                listed = ", ".join(map(repr, known)) or "none"
                message = f"{name!r} in {prompt!r} is read as ordinary letters; known tokens: {listed}"
                warnings.warn(message, stacklevel=2)
        texts = [
            Piece(self._clip(text, add_special_tokens=False, verbose=False).input_ids, None) for text in parts[::2]
        ]
        by_lower = {name.lower(): index for name, index in ids.items()}
        names = [Piece(by_lower[name.lower()], name) for name in parts[1::2]]
        for name, after in zip(parts[1::2], parts[2::2], strict=True):
            if suffix := re.match(r"_\d+", after):
                raise UserError(
                    f"write {name!r} for all vectors of the concept, not {name + suffix[0]!r}, in {prompt!r}"
                )
        return [piece for pair in zip(texts, [*names, Piece([], None)], strict=True) for piece in pair]

    def _tail(self, pieces: list[Piece], room: int) -> str:
        """The text from the first token on that does not fit into `room` tokens."""
        words = []
        for piece in pieces:
            lost, room = piece.ids[max(room, 0) :], room - len(piece.ids)
            if lost:
                words.append(piece.name or self._clip.decode(lost))
        return " ".join(words)


def _prompt_length(files: TokenizerFiles, positions: int | None, folder: str) -> int:
    """The length that prompts are padded to."""
    stated = files.config.get("model_max_length", positions)
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int | float) or stated < 2):
        raise UserError(f"{folder}/tokenizer_config.json: model_max_length {stated!r} must be a number of tokens")
    # transformers writes 1e30 if the length is not known.
    length = positions if stated is None or stated > 1e9 else int(stated)
    if length is None:
        raise UserError(f"{folder}/tokenizer_config.json has no model_max_length")
    if positions is not None and length > positions:
        raise UserError(f"{folder} pads prompts to {length} tokens but the text encoder has {positions} positions")
    return length


def _multi_vector_tokens(added: Mapping[str, int]) -> dict[str, list[int]]:
    """Concept tokens of several vectors that a tokenizer already has, such as in a merged folder."""
    ids = {}
    for name in added:
        units = [name]
        while (unit := f"{name}_{len(units)}") in added:
            units.append(unit)
        if len(units) > 1:
            ids[name] = [added[unit] for unit in units]
    return ids
