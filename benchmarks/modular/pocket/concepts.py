"""Concepts of the pocket world (individuals, scenes and styles), drawn by seed, and distractors for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blocklora_jax.pocket.concepts import Concept, concept_pictures, draw_concept
from blocklora_jax.pocket.references import write_concept

# People, subjects, scenes and styles, 5 + 5 + 3 + 2 of every fifteen, mixed so that the first few are of several kinds.
ORDER = (
    "person", "animal", "scene", "object", "person", "style", "animal", "person",
    "object", "scene", "person", "animal", "style", "person", "scene",
)  # fmt: skip
REFERENCES = 6
# The seed of concepts on which settings are chosen. The bench measures seeds 0, 1 and 2; the packaged negative tokens
# are of seed 1000.
HELD_OUT_SEED = 2000


def draw_concepts(count: int, seed: int) -> list[Concept]:
    """`count` concepts, the first of them the same for any count; classes repeat as late as they can."""
    rng, drawn = np.random.default_rng((seed, 15)), []
    for index in range(count):
        kind = ORDER[index % len(ORDER)]
        used = [concept.class_noun for concept in drawn if concept.kind == kind]
        candidates = [draw_concept(kind, f"{kind}{index:02d}", rng) for _ in range(40)]
        candidates = [c for c in candidates if all(c.thing != d.thing for d in drawn)] or candidates
        drawn.append(min(candidates, key=lambda c: used.count(c.class_noun)))
    return drawn


def draw_distractors(concept: Concept, count: int, seed: int) -> list[Concept]:
    """Other concepts of the same class, all different. A scene or style may have fewer variants than `count`."""
    name = concept.thing[0] if isinstance(concept.thing, tuple) else concept.class_noun
    rng, by_thing = np.random.default_rng((seed, *concept.name.encode())), {concept.thing: concept}
    for index in range(20 * count):
        distractor = draw_concept(concept.kind, f"{concept.name}-stranger{index}", rng, name)
        if len(by_thing) <= count:
            by_thing.setdefault(distractor.thing, distractor)
    return list(by_thing.values())[1:]


def write_references(concepts: Sequence[Concept], folder: Path) -> dict[str, dict[str, str]]:
    """Draw every concept's pictures; gives the entries of a concepts file (see `train.concepts`)."""
    for concept in concepts:
        write_concept(concept, folder / concept.name, REFERENCES)
    kinds = {"person": "person", "animal": "object", "object": "object", "scene": "scene", "style": "style"}
    return {
        c.name: {"images": str((folder / c.name).resolve()), "class_noun": c.class_noun, "kind": kinds[c.kind]}
        for c in concepts
    }


def references(concept: Concept) -> np.ndarray:
    """The pictures that a concept is learnt from, uint8 [6, 64, 64, 3]."""
    return concept_pictures(concept, REFERENCES)[0]
