"""A small CLIP tokenizer whose vocabulary has the words of the pocket world, each as one token.

The files are those of any CLIP tokenizer (byte-level BPE with the `</w>` ending), so that transformers'
`CLIPTokenizer`, slow or fast, reads them. Other words can be encoded too, in pieces.
"""

import itertools
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from blocklora_jax.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

Merge = tuple[str, str]


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte 0..255 in the vocabulary and in merges.

    Printable bytes stand for themselves. The others are moved, in order, to the code points from 256 on.

    Source: the byte-to-unicode table of GPT-2, shared by CLIP.

    >>> byte_alphabet()[ord("a")], byte_alphabet()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = {byte: 256 + index for index, byte in enumerate(sorted(set(range(256)) - printable))}
    return [chr(moved.get(byte, byte)) for byte in range(256)]


def build_merges(words: Iterable[str]) -> list[Merge]:
    """BPE merges, best first, with which every word is a single token.

    A later merge has a lower rank than all earlier ones, so that it is never chosen before an earlier word is complete.
    So words that are one token stay one token, whatever merges are appended.
    """
    ranks: dict[Merge, int] = {}
    for word in words:
        pieces = _apply_merges(_symbols(word), ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _apply_merges(pieces, ranks)
    return list(ranks)


def write_tokenizer(folder: str | Path, words: Sequence[str], max_length: int = 24) -> int:
    """Write `vocab.json`, `merges.txt` and the two config files of a CLIP tokenizer.

    Args:
        folder: the folder to write to; it is made if it does not exist.
        words: words of lower-case letters, or single marks such as a comma. Each becomes one token. Repeated words
            count once.
        max_length: positions of the text encoder, including those for the start and end tokens.

    Returns:
        The number of tokens, which is the number of rows of the text encoder's table.

    Raises:
        UserError: a word that CLIP's rules would split (with a space, digits or punctuation), or not in lower case.
    """
    for word in words:
        is_mark = len(word) == 1 and not word.isspace()
        if not (is_mark or word.isalpha()) or word != unicodedata.normalize("NFC", word).lower():
            raise UserError(f"cannot make {word!r} one token: a word is lower-case letters only, or one single mark")
    merges = build_merges(dict.fromkeys(words))
    alphabet = byte_alphabet()
    merged = dict.fromkeys(left + right for left, right in merges)
    tokens = [*alphabet, *(character + WORD_END for character in alphabet), *merged, START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")))
    _write(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(merge) for merge in merges)]))
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **special}
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    return len(tokens)


def _symbols(word: str) -> list[str]:
    alphabet = byte_alphabet()
    *first, last = (alphabet[byte] for byte in word.encode())
    return [*first, last + WORD_END]


def _apply_merges(pieces: list[str], ranks: dict[Merge, int]) -> list[str]:
    """Merge the best-ranked pair, everywhere it occurs, until no pair has a rank."""
    while candidates := [pair for pair in itertools.pairwise(pieces) if pair in ranks]:
        best = min(candidates, key=ranks.__getitem__)
        merged: list[str] = []
        for piece in pieces:
            # A piece that was just merged differs from best[0]. So overlapping pairs ("aaa") merge from the left.
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
