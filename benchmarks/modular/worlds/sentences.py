"""The prompts of real concepts, from a file of sentences by kind and category (sentences.yaml)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.modular.pocket.prompts import Prompt
from benchmarks.modular.worlds.folder import RealConcept
from blocklora_jax.checks.texts import fill
from blocklora_jax.errors import UserError
from train.concept.config import read_yaml
from train.concept.prompts import class_caption

SENTENCES = Path(__file__).parent / "sentences.yaml"
KINDS = ("person", "object", "scene", "style")
CATEGORIES = ("recontextualised", "restyled", "company", "property")
_LISTS = {"pairs": ("{first}", "{second}"), "stylised": ("{style}", "{subject}"), "plain": ("{}",), "others": ()}


class Pair(NamedTuple):
    """A prompt that calls two concepts."""

    first: RealConcept
    second: RealConcept
    text: str


@dataclass(frozen=True)
class Sentences:
    """By kind and category, and lists of `pairs`, `stylised`, `plain` and `others`."""

    by_kind: Mapping[str, Mapping[str, Sequence[str]]]
    lists: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, path: Path = SENTENCES) -> Sentences:
        """Raises: UserError naming the kind, category or sentence that is missing or malformed."""
        raw = read_yaml(path)
        if unknown := sorted(set(raw) - {*KINDS, *_LISTS}):
            raise UserError(f"{path}: unknown entry {unknown[0]!r}; known are {', '.join([*KINDS, *_LISTS])}")
        by_kind = {kind: {c: _sentences(path, raw, (kind, c), ("{}",)) for c in CATEGORIES} for kind in KINDS}
        return cls(by_kind, {name: _sentences(path, raw, (name,), places) for name, places in _LISTS.items()})

    def concept_prompts(self, concept: RealConcept, count: int) -> list[Prompt]:
        """The concept's own prompts in their order; without such, of each category as many as can be, in turn.

        Which sentences of a category come first depends on the concept's name.

        Raises: UserError if the concept has prompts of its own, but fewer.
        """
        if concept.prompts:
            if count > len(concept.prompts):
                raise UserError(
                    f"{concept.folder} has {len(concept.prompts)} prompts: give --prompts {len(concept.prompts)}"
                )
            return [_prompt(concept, sentence, "own") for sentence in concept.prompts[:count]]
        shares = [(count + len(CATEGORIES) - 1 - i) // len(CATEGORIES) for i in range(len(CATEGORIES))]
        shift, found = sum(concept.name.encode()), []
        for category, share in zip(CATEGORIES, shares, strict=True):
            sentences = self.by_kind[concept.kind][category]
            found += [_prompt(concept, sentences[(shift + i) % len(sentences)], category) for i in range(share)]
        return found

    def pair_prompts(self, concepts: Sequence[RealConcept], count: int) -> list[Pair]:
        """Two people or objects, every pair in turn."""
        pairs = list(combinations([c for c in concepts if c.kind in ("person", "object")], 2))
        chosen = [pairs[i * len(pairs) // count % len(pairs)] for i in range(count if pairs else 0)]
        sentences = self.lists["pairs"]
        return [
            Pair(a, b, fill(sentences[i % len(sentences)], first=_call(a), second=_call(b)))
            for i, (a, b) in enumerate(chosen)
        ]

    def stylised_prompts(self, concepts: Sequence[RealConcept], count: int) -> list[Pair]:
        """A person or object in a style that is itself a concept."""
        styles, single = ([c for c in concepts if c.kind in kinds] for kinds in (("style",), ("person", "object")))
        pairs = [(a, b) for b in styles for a in single]
        chosen = [pairs[i * len(pairs) // count % len(pairs)] for i in range(count if pairs else 0)]
        sentences = self.lists["stylised"]
        return [
            Pair(a, b, fill(sentences[i % len(sentences)], subject=_call(a), style=_call(b)))
            for i, (a, b) in enumerate(chosen)
        ]

    def plain_prompts(self, concepts: Sequence[RealConcept]) -> list[str]:
        """Twelve prompts without any concept, up to half of them of the concepts' own classes."""
        classes = dict.fromkeys(c.class_noun for c in concepts if c.kind in ("person", "object"))
        nouns = list(dict.fromkeys([*list(classes)[:6], *self.lists["others"]]))[:12]
        sentences = self.lists["plain"]
        return [
            fill(sentences[i % len(sentences)], f"{'an' if n[:1].lower() in 'aeiou' else 'a'} {n}")
            for i, n in enumerate(nouns)
        ]


def _prompt(concept: RealConcept, sentence: str, category: str) -> Prompt:
    text = fill(sentence, _call(concept))
    return Prompt(text, class_caption(text, concept.config.called), category)


def _call(concept: RealConcept) -> str:
    return f"{concept.token} {concept.class_noun}"


def _sentences(path: Path, raw: Mapping[str, Any], keys: Sequence[str], places: Sequence[str]) -> list[str]:
    found: Any = raw
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    where = f"{path}: {'/'.join(keys)}"
    if not isinstance(found, list) or not found or not all(isinstance(words, str) for words in found):
        raise UserError(f"{where} must be a list of one or more sentences")
    for words in found:
        if any(words.count(place) != 1 for place in places) or words.count("{") != len(places):
            wanted = " and ".join(places) or "no place for a concept"
            raise UserError(f"{where}: {words!r} must have {wanted}, once each")
    return found
