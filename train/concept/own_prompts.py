"""Prompts with the concept's own token and with words that its captions do not have. The token side trains on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.prompts.random_prompts import NEGATIVE, PromptWords, random_prompt
from blocklora_jax.prompts.shares import RandomPromptShares
from train.concept.batch import OwnPrompts
from train.concept.settings.concept_name import ConceptName

_COUNT = 256
# In half of them the noun is the concept's class noun, as in the prompts of most users.
_SHARES = RandomPromptShares(own_class=0.5, negative=1.0, empty=0.0)


def own_prompts(
    words: PromptWords, concept: ConceptName, captions: Sequence[str], owned: np.ndarray, sd: StableDiffusion, seed: int
) -> OwnPrompts:
    """A pool of prompts, a function of the seed. owned: bool [d], which directions of the basis the concept owns."""
    texts = own_prompt_texts(unused_words(words, captions), concept, _COUNT, seed)
    ids = sd.tokenizer.encode(texts, concept.token_vectors)
    return OwnPrompts(ids, np.broadcast_to(owned, (len(ids), len(owned))))


def own_prompt_texts(words: PromptWords, concept: ConceptName, count: int, seed: int) -> list[str]:
    """`count` prompts with the concept's token. In every fourth, no noun follows the token."""
    rng = np.random.default_rng((seed, 0x0A1D))
    pairs = [random_prompt(rng, words, _SHARES, concept.class_noun) for _ in range(count)]
    bare = [
        text.replace(f"{NEGATIVE} {noun}", NEGATIVE) if i % 4 == 3 else text for i, (text, noun) in enumerate(pairs)
    ]
    return [text.replace(NEGATIVE, concept.token) for text in bare]


def unused_words(words: PromptWords, captions: Sequence[str]) -> PromptWords:
    """`words` without the styles and scenes in `captions`. If none of a sort would be left, all of it are kept."""
    text = "\n".join(captions)

    def unused(options: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(option for option in options if option not in text) or options

    return PromptWords(styles=unused(words.styles), subjects=words.subjects, scenes=unused(words.scenes))
