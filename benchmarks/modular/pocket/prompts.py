"""The prompts for a merged model, after the protocol of Mix-of-Show: new places, other styles, company.

Its fourth category, changed properties, has no words in this world: captions name classes, places and styles only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from benchmarks.modular.pocket.words import COMPANY, LOOKS, PLACES
from blocklora_jax.pocket.concepts import Concept
from blocklora_jax.pocket.world.captions import prompt, scene_phrase, style_phrase, subject_phrase
from blocklora_jax.pocket.world.specs import Individual


class Prompt(NamedTuple):
    """text: with tokens. plain: the same without them, for text alignment. category: place, style, or company."""

    text: str
    plain: str
    category: str


def concept_prompts(concept: Concept, count: int = 8) -> list[Prompt]:
    """Half in new places, a quarter in other styles, a quarter in company."""
    kinds = ["place"] * (count - count // 4 * 2) + ["style"] * (count // 4) + ["company"] * (count // 4)
    shift = sum(concept.name.encode())
    return [_prompt(concept, category, shift + index) for index, category in enumerate(kinds)]


def _prompt(concept: Concept, category: str, index: int) -> Prompt:
    place, friend = PLACES[index % len(PLACES)], COMPANY[index % len(COMPANY)]
    if friend == concept.class_noun:
        friend = COMPANY[(index + 1) % len(COMPANY)]
    if category == "style" and concept.kind != "style":
        look = LOOKS[index % len(LOOKS)]
    else:
        look = "photo"
    with_token, without = (_words(concept, token, place, friend, look, category) for token in (concept.token, ""))
    return Prompt(with_token, without, category)


def _words(concept: Concept, token: str, place: str, friend: str, look: str, category: str) -> str:
    if isinstance(concept.thing, Individual):
        subjects = [subject_phrase(concept.class_noun, token)]
        subjects += [subject_phrase(friend)] if category == "company" else []
        return prompt(subjects, scene_phrase(place), style_phrase(look))
    others = [subject_phrase(friend)] + ([subject_phrase("bird")] if category == "company" else [])
    if concept.kind == "scene":
        return prompt(others, scene_phrase(concept.thing[0], token), style_phrase(look))
    return prompt(others, scene_phrase(place), style_phrase(concept.thing[0], token))


class Pair(NamedTuple):
    """A prompt that calls two concepts. For individuals the first stands at the left. place: the scene."""

    first: Concept
    second: Concept
    text: str
    place: str


def pair_prompts(concepts: Sequence[Concept], count: int) -> list[Pair]:
    """Two individuals in one picture, every pair of different classes in turn."""
    single = [c for c in concepts if isinstance(c.thing, Individual)]
    pairs = [(a, b) for a, b in combinations(single, 2) if a.class_noun != b.class_noun]
    return [_pair(*pairs[i * len(pairs) // count % len(pairs)], i) for i in range(count if pairs else 0)]


def _pair(first: Concept, second: Concept, index: int) -> Pair:
    place = PLACES[index % len(PLACES)]
    subjects = [subject_phrase(c.class_noun, c.token) for c in (first, second)]
    return Pair(first, second, prompt(subjects, scene_phrase(place)), place)


def stylised_prompts(concepts: Sequence[Concept], count: int) -> list[Pair]:
    """An individual in a style that is itself a concept."""
    single = [c for c in concepts if isinstance(c.thing, Individual)]
    styles = [c for c in concepts if c.kind == "style"]
    pairs = [(a, b) for b in styles for a in single]
    return [_stylised(*pairs[i * len(pairs) // count % len(pairs)], i) for i in range(count if pairs else 0)]


def _stylised(single: Concept, style: Concept, index: int) -> Pair:
    assert not isinstance(style.thing, Individual)
    place = PLACES[index % len(PLACES)]
    subject, look = subject_phrase(single.class_noun, single.token), style_phrase(style.thing[0], style.token)
    return Pair(single, style, prompt([subject], scene_phrase(place), look), place)


def plain_prompts(concepts: Sequence[Concept]) -> list[str]:
    """Prompts without any concept, half of them of the concepts' classes. Merging should not change these pictures."""
    classes = dict.fromkeys(c.class_noun for c in concepts if isinstance(c.thing, Individual))
    nouns = [*list(classes)[:6], *COMPANY, *COMPANY][:12]
    looks = ("photo", *LOOKS)
    return [
        prompt([subject_phrase(n)], scene_phrase(PLACES[i % len(PLACES)]), style_phrase(looks[i // 4 % len(looks)]))
        for i, n in enumerate(nouns)
    ]
