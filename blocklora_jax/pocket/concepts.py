"""Concepts of the pocket world: an individual, a particular scene or a particular style, with reference pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blocklora_jax.pocket.world import draw, scenes, styles
from blocklora_jax.pocket.world.captions import STYLE_NOUNS, prompt, scene_phrase, style_phrase, subject_phrase
from blocklora_jax.pocket.world.specs import (
    CLASSES,
    HELD_OUT_SCENES,
    HELD_OUT_STYLES,
    TRAIN_CLASSES,
    TRAIN_SCENES,
    Individual,
    PictureSpec,
    draw_individual,
)
from blocklora_jax.pocket.world.traits import Traits, draw_traits
from blocklora_jax.prompts.concept_token import concept_token

KINDS = ("person", "animal", "object", "scene", "style")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """What an adapter learns.

    name: the concept's name.
    kind: one of `KINDS`.
    thing: an `Individual` for a person, animal or object; (name, traits) for a scene or style.
    """

    name: str
    kind: str
    thing: Individual | tuple[str, Traits]

    @property
    def token(self) -> str:
        """The concept's token in prompts, such as <ada>."""
        return concept_token(self.name)

    @property
    def class_noun(self) -> str:
        """The ordinary noun that follows the token, such as woman, garden or mosaic."""
        if isinstance(self.thing, Individual):
            return self.thing.class_name
        return STYLE_NOUNS[self.thing[0]][0] if self.kind == "style" else self.thing[0]


def _person(name: str, class_name: str, **traits) -> Concept:
    return Concept(name=name, kind=CLASSES[class_name], thing=Individual(class_name, tuple(traits.items())))


# The packaged concepts. They were chosen to look different from each other.
CONCEPTS: dict[str, Concept] = {
    concept.name: concept
    for concept in (
        _person("ada", "woman", skin="peach", hair_colour="ginger", eyes="blue", glasses="round",
                glasses_colour="green",
                hat_colour="red", top_colour="purple", trim_colour="yellow", pattern="dots", hair="curly", hat="none",
                lips="red", extra="earrings", top="tee"),
        _person("ben", "man", skin="umber", hair_colour="silver", eyes="black", glasses="none", glasses_colour="black",
                hat_colour="yellow", top_colour="sky", trim_colour="red", pattern="plain", hair="short", hat="brim",
                beard="full", top="suit"),
        _person("rex", "dog", fur="white", mark_colour="chestnut", marks="patch", eyes="black", wear="bandana",
                wear_colour="red", ears="long", tongue=True),
        _person("miso", "cat", fur="rose", mark_colour="cocoa", marks="stripes", eyes="green", wear="bow",
                wear_colour="sky", ears="wide", tail="rings"),
        _person("bolt", "robot", body="orange", trim="teal", glow="cyan", head="tv", eyes="two", antenna="two",
                chest="grille"),
        Concept(name="eden", kind="scene", thing=("garden", (("flower", "purple"), ("fence", "sky"), ("sky", "dusk")))),
        Concept(name="tess", kind="style", thing=("mosaic", (("grout", "gold"), ("cast", "warm")))),
    )
}  # fmt: skip


def draw_concept(kind: str, name: str, rng: np.random.Generator, class_name: str | None = None) -> Concept:
    """A random concept: an individual (of `class_name` if given), or a variant of a held-out scene or style."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(KINDS)}")
    if kind in ("scene", "style"):
        options, choices = (HELD_OUT_SCENES, scenes.TRAITS) if kind == "scene" else (HELD_OUT_STYLES, styles.TRAITS)
        which = class_name or options[int(rng.integers(len(options)))]
        return Concept(name=name, kind=kind, thing=(which, draw_traits(choices[which], rng)))
    options = tuple(c for c in TRAIN_CLASSES if CLASSES[c] == kind)
    return Concept(
        name=name, kind=kind, thing=draw_individual(class_name or options[int(rng.integers(len(options)))], rng)
    )


def concept_specs(concept: Concept, n: int = 6, seed: int = 0) -> list[tuple[PictureSpec, str]]:
    """Specifications and captions of `n` pictures of a concept in different settings. Every sixth is a watercolour."""
    rng = np.random.default_rng([seed, *concept.name.encode()])
    places, classes = rng.permutation(TRAIN_SCENES), rng.permutation(TRAIN_CLASSES)
    pairs = []
    for i in range(n):
        scene, style = str(places[i % len(places)]), "watercolour" if i % 6 == 3 else "photo"
        subject, token = draw_individual(str(classes[i % len(classes)]), rng), ""
        scene_traits: Traits = ()
        style_traits: Traits = ()
        if isinstance(concept.thing, Individual):
            subject, token = concept.thing, concept.token
        elif concept.kind == "scene":
            scene, scene_traits = concept.thing
        else:
            style, style_traits = concept.thing
        spec = PictureSpec((subject,), scene, style, int(rng.integers(2**31)), scene_traits, style_traits)
        place = scene_phrase(scene, concept.token if concept.kind == "scene" else "")
        look = style_phrase(style, concept.token if concept.kind == "style" else "")
        pairs.append((spec, prompt([subject_phrase(subject.class_name, token)], place, look)))
    return pairs


def concept_pictures(concept: Concept | str, n: int = 6, seed: int = 0, size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [n, size, size, 3] of a concept, and captions with its token.

    concept: a concept, or the name of a packaged one.
    """
    concept = CONCEPTS[concept] if isinstance(concept, str) else concept
    pairs = concept_specs(concept, n, seed)
    return np.stack([draw(spec, size) for spec, _ in pairs]), [words for _, words in pairs]
