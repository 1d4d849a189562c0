"""Prompts of any length, with weights, as token ids.

A text encoder reads 77 tokens at once. A longer prompt is cut into chunks of 75, each between a start and an end token.
Source: A1111 and compel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair
from blocklora_jax.prompts.weights import weighted_spans


class PromptIds(NamedTuple):
    """Prompts that are longer than the text encoder reads at once, or have weights.

    ids: token ids of the chunks, [c, b, t], or [c, b, 2, t] for two text encoders.
    weights: of each token, in the shape of ids; None if all are 1.
    empty: ids of the empty prompt, with which weights are applied.
    """

    ids: Int[Array | np.ndarray, "c b *e t"]
    weights: Float[Array | np.ndarray, "c b *e t"] | None
    empty: Int[Array | np.ndarray, "1 *e t"]


class _Token(NamedTuple):
    index: int
    weight: float


Chunk = list[_Token]


def count_chunks(
    tokenizer: Tokenizer | TokenizerPair, prompts: Sequence[str], tokens: Mapping[str, int] | None = None
) -> list[int]:
    """For each prompt, the number of chunks that it needs."""
    return [max(map(len, split)) for split in _split_all(tokenizer, prompts, tokens)]


def encode_prompts(
    tokenizer: Tokenizer | TokenizerPair,
    prompts: Sequence[str],
    tokens: Mapping[str, int] | None = None,
    chunks: int | None = None,
) -> Int[np.ndarray, "b *e t"] | PromptIds:
    """Token ids of prompts of any length with weights; see `prompts.weights` for their syntax.

    Args:
        tokenizer: one, or two for SDXL.
        prompts: any text.
        tokens: concept token -> number of its vectors. They can be within weights.
        chunks: number of chunks of each prompt; default: what the longest needs. Shorter ones get empty chunks.

    Returns:
        int32 ids [b, *e, t], as from `tokenizer.encode`, if one chunk is enough and no word has a weight.

    Warns, raises: as `Tokenizer.encode`, but not for long prompts; and UserError for a weight out of bounds.
    """
    splits = _split_all(tokenizer, prompts, tokens)
    count = max([chunks or 1, *(len(body) for split in splits for body in split)])
    # [b, e, c] -> [c, b, e]: the chunks of all prompts are one batch for the text encoder.
    by_chunk = [[[body[i] if i < len(body) else [] for body in split] for split in splits] for i in range(count)]
    ids = np.asarray([[_ids(tokenizer, row) for row in rows] for rows in by_chunk], np.int32)
    weights = np.asarray([[_weights(tokenizer, row) for row in rows] for rows in by_chunk], np.float32)
    if count == 1 and (weights == 1).all():
        return ids[0]
    empty = np.asarray([_ids(tokenizer, [[] for _ in _each(tokenizer)])], np.int32)
    return PromptIds(ids, None if (weights == 1).all() else weights, empty)


def _each(tokenizer: Tokenizer | TokenizerPair) -> tuple[Tokenizer, ...]:
    return (tokenizer.first, tokenizer.second) if isinstance(tokenizer, TokenizerPair) else (tokenizer,)


def _split_all(
    tokenizer: Tokenizer | TokenizerPair, prompts: Sequence[str], tokens: Mapping[str, int] | None
) -> list[list[list[Chunk]]]:
    """The chunks of each prompt, by tokenizer: SDXL's second one pads with "!", and so has that as a token."""
    return [[_split(one, prompt, tokens or {}) for one in _each(tokenizer)] for prompt in prompts]


def _split(tokenizer: Tokenizer, prompt: str, tokens: Mapping[str, int]) -> list[Chunk]:
    """The chunks of a prompt, at least one. The vectors of a concept token stay in one chunk if they fit into it."""
    room = tokenizer.length - 2
    chunks: list[Chunk] = [[]]
    for text, weight in weighted_spans(prompt):
        for piece in tokenizer.pieces(text, tokens):
            whole = piece.name is not None and len(piece.ids) <= room
            if whole and len(chunks[-1]) + len(piece.ids) > room:
                chunks.append([])
            for index in piece.ids:
                if len(chunks[-1]) == room:
                    chunks.append([])
                chunks[-1].append(_Token(index, weight))
    return chunks


def _ids(tokenizer: Tokenizer | TokenizerPair, chunks: Sequence[Chunk]) -> list:
    """The ids of a chunk, given for each tokenizer, with start, end and padding tokens: [t], or [2, t]."""
    framed = [one.frame([token.index for token in chunk]) for one, chunk in zip(_each(tokenizer), chunks, strict=True)]
    return framed if isinstance(tokenizer, TokenizerPair) else framed[0]


def _weights(tokenizer: Tokenizer | TokenizerPair, chunks: Sequence[Chunk]) -> list:
    """The weights of a chunk, given for each tokenizer, with 1 for start, end and padding tokens: [t], or [2, t]."""
    framed = []
    for one, chunk in zip(_each(tokenizer), chunks, strict=True):
        weights = [1.0, *(token.weight for token in chunk)]
        framed.append(weights + [1.0] * (one.length - len(weights)))
    return framed if isinstance(tokenizer, TokenizerPair) else framed[0]
