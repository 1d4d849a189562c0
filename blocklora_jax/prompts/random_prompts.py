"""The random prompts of ROE: about anything, some with a negative token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from blocklora_jax.errors import UserError
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair

# The kind of a concept says where in a prompt it is called.
Kind = Literal["person", "object", "scene", "style"]
FOREIGN = "<foreign>"


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


@dataclass(frozen=True, kw_only=True)
class RandomPromptShares:
    """How often a random prompt has what, each a share in 0..1.

    own_class: the subject is the concept's own class. foreign: a negative token stands before the subject.
    second: a second subject joins. scene: a scene is named. empty: the empty prompt (classifier-free guidance).
    """

    own_class: float = 0.4
    foreign: float = 0.5
    second: float = 0.2
    scene: float = 0.8
    empty: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UserError(f"random prompt share {name}={value} must lie in 0..1")


class RandomPrompts(NamedTuple):
    """A pool to draw from.

    ids: int32 [p, t], or [p, 2, t] for two text encoders; ids from `table_rows + own vectors` on are of the negative
    token.
    nouns: int32 [p], the last token of the subject; a negative token's embedding is drawn around that of this token.
    texts: the prompts.
    """

    ids: Int[np.ndarray, "p *e t"]
    nouns: Int[np.ndarray, " p"]
    texts: tuple[str, ...]


def random_prompt(
    rng: np.random.Generator, words: PromptWords, shares: RandomPromptShares, class_noun: str
) -> tuple[str, str]:
    """One prompt, and the subject, before which a negative token stands if there is one.

    >>> words = PromptWords(styles=("a photo of",), subjects=("dog",), scenes=("on a beach",))
    >>> random_prompt(np.random.default_rng(0), words, RandomPromptShares(empty=1.0), "man")[0]
    ''
    """
    empty, own, foreign, second, scene = rng.random(5) < [
        shares.empty, shares.own_class, shares.foreign, shares.second, shares.scene
    ]  # fmt: skip
    subject = class_noun if own else str(rng.choice(words.subjects))
    style, other, place = (str(rng.choice(options)) for options in (words.styles, words.subjects, words.scenes))
    if empty:
        return "", subject
    named = f"{FOREIGN} {subject}" if foreign else f"{article(subject)} {subject}"
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
    """A pool of `count` prompts, a function of the seed.

    own_token: (name, vectors) of the concept being taught. The negative token has as many vectors; without vectors
    there is none.

    Raises UserError if the concept's token has the name that negative tokens have in the pool.
    """
    name, vectors = own_token
    if name == FOREIGN:
        raise UserError(
            f"the token {FOREIGN} stands for other people's concepts in random prompts: choose another name"
        )
    if not vectors:
        shares = replace(shares, foreign=0.0)
    rng = np.random.default_rng((seed, 0x0E0E))
    texts, subjects = zip(*(random_prompt(rng, words, shares, class_noun) for _ in range(count)), strict=True)
    ids = tokenizer.encode(texts, {name: vectors, FOREIGN: vectors} if vectors else {})
    return RandomPrompts(ids, last_token_ids(tokenizer, subjects), texts)


def last_token_ids(tokenizer: Tokenizer | TokenizerPair, phrases: Sequence[str]) -> Int[np.ndarray, " p"]:
    """The id int32 [p] of each phrase's last token: the head noun."""
    distinct = {phrase: index for index, phrase in enumerate(dict.fromkeys(phrases))}
    ids = tokenizer.encode(["", *distinct])
    # Of two text encoders the first's: they have one vocabulary.
    ids = ids.reshape(len(ids), -1, ids.shape[-1])[:, 0]
    # The empty prompt is start, end, padding; padding may be the end token or another.
    ends = (ids[1:] == ids[0, 1]).argmax(1)
    last = ids[1:][np.arange(len(distinct)), ends - 1]
    return np.asarray([last[distinct[phrase]] for phrase in phrases], np.int32)


def article(noun: str) -> str:
    """What stands before the noun: "a" or "an"."""
    return "an" if noun[:1].lower() in "aeiou" else "a"
