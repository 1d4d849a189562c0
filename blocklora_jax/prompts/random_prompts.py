"""Random prompts for Randomized Output Erasure. They are about anything, and some have a negative token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from blocklora_jax.errors import UserError
from blocklora_jax.prompts.shares import RandomPromptShares
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair

NEGATIVE = "<negative>"


@dataclass(frozen=True, kw_only=True)
class PromptWords:
    """The words that random prompts are made of.

    styles: beginnings such as "a photo of". subjects: class nouns. scenes: ends such as "on a beach".
    """

    styles: tuple[str, ...]
    subjects: tuple[str, ...]
    scenes: tuple[str, ...]

    def __post_init__(self) -> None:
        empty = [name for name in ("styles", "subjects", "scenes") if not getattr(self, name)]
        if empty:
            raise UserError(f"random prompts need at least one entry in {', '.join(empty)}")


class RandomPrompts(NamedTuple):
    """A pool of random prompts.

    ids: int32 [p, t], or [p, 2, t] for two text encoders. Ids from `table_rows` + the number of the own token's vectors
        on belong to the negative token.
    nouns: int32 [p], the last token of the subject. The negative token's embedding is drawn around its embedding.
    texts: the prompts.
    """

    ids: Int[np.ndarray, "p *e t"]
    nouns: Int[np.ndarray, " p"]
    texts: tuple[str, ...]


def random_prompt(
    rng: np.random.Generator, words: PromptWords, shares: RandomPromptShares, class_noun: str
) -> tuple[str, str]:
    """One prompt, and its subject. A negative token, if there is one, comes before the subject.

    >>> words = PromptWords(styles=("a photo of",), subjects=("dog",), scenes=("on a beach",))
    >>> random_prompt(np.random.default_rng(0), words, RandomPromptShares(empty=1.0), "man")[0]
    ''
    """
    empty, own_class, negative, second, scene = rng.random(5) < [
        shares.empty, shares.own_class, shares.negative, shares.second, shares.scene
    ]  # fmt: skip
    subject = class_noun if own_class else str(rng.choice(words.subjects))
    style, other, place = (str(rng.choice(options)) for options in (words.styles, words.subjects, words.scenes))
    if empty:
        return "", subject
    named = f"{NEGATIVE} {subject}" if negative else f"{article(subject)} {subject}"
    phrases = [named] + ([f"{article(other)} {other}"] if second else [])
    if second and rng.random() < 0.5:
        phrases.reverse()
    return " ".join([style, " and ".join(phrases)] + ([place] if scene else [])), subject


def make_random_prompts(
    tokenizer: Tokenizer | TokenizerPair,
    words: PromptWords,
    shares: RandomPromptShares,
    class_noun: str,
    own_token: tuple[str, int],
    seed: int,
    count: int = 1024,
) -> RandomPrompts:
    """A pool of `count` prompts, which depends only on the arguments.

    own_token: (name, number of vectors) of the concept that is trained. A negative token has as many vectors. If the
        concept has no vectors, there are no negative tokens.

    Raises: UserError if the concept's token is the placeholder of negative tokens.
    """
    name, vectors = own_token
    if name == NEGATIVE:
        raise UserError(f"the token {NEGATIVE} stands for other concepts in random prompts: choose another name")
    if not vectors:
        shares = replace(shares, negative=0.0)
    rng = np.random.default_rng((seed, 0x0E0E))
    texts, subjects = zip(*(random_prompt(rng, words, shares, class_noun) for _ in range(count)), strict=True)
    ids = tokenizer.encode(texts, {name: vectors, NEGATIVE: vectors} if vectors else {})
    return RandomPrompts(ids, last_token_ids(tokenizer, subjects), texts)


def last_token_ids(tokenizer: Tokenizer | TokenizerPair, phrases: Sequence[str]) -> Int[np.ndarray, " p"]:
    """The id of each phrase's last token, which is the head noun; int32 [p]."""
    distinct = {phrase: index for index, phrase in enumerate(dict.fromkeys(phrases))}
    ids = tokenizer.encode(["", *distinct])
    # If there are two text encoders, the ids of the first: both have the same vocabulary.
    ids = ids.reshape(len(ids), -1, ids.shape[-1])[:, 0]
    # The ids of the empty prompt are start, end, padding. Padding may be the end token or another token.
    ends = (ids[1:] == ids[0, 1]).argmax(1)
    last = ids[1:][np.arange(len(distinct)), ends - 1]
    return np.asarray([last[distinct[phrase]] for phrase in phrases], np.int32)


def article(noun: str) -> str:
    """The article for a noun: "a" or "an"."""
    return "an" if noun[:1].lower() in "aeiou" else "a"
