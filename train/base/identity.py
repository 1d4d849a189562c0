"""How well the judge recognises individuals that it was not trained on, and tells scene and style variants apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from blocklora_jax.pocket.concepts import Concept, concept_pictures
from blocklora_jax.pocket.judge import Judge
from blocklora_jax.pocket.world import draw
from blocklora_jax.pocket.world.specs import (
    CLASSES,
    HELD_OUT_SCENES,
    HELD_OUT_STYLES,
    TRAIN_SCENES,
    Individual,
    PictureSpec,
    draw_individual,
)
from train.base import lineup

_WATERCOLOURS = 1 / 6  # The share in a concept's references. The other references are photos.
_VARIANTS = {"scene": (HELD_OUT_SCENES, lineup.SCENE_VARIANTS), "style": (HELD_OUT_STYLES, lineup.STYLE_VARIANTS)}


def measure_identity(judge: Judge, seed: int, count: int = 500) -> dict[str, Any]:
    """Retrieval among `count` individuals of all classes that the judge was not trained on, and mean cosines.

    Each individual has a gallery picture and a query picture. Both show it alone. Their scenes, poses and places are
    drawn independently. One picture in six is a watercolour, the others are photos.

    `top1`: share of queries whose nearest gallery picture shows the same individual. `top1_of_class`: the same, among
    the gallery pictures of its class only. `top1_in_pairs`: as `top1_of_class`, for queries that also show an
    individual of another class. `cosine_same`, `cosine_same_class`, `cosine_other_class`: from a query to the gallery
    picture of the same individual, to those of other individuals of its class, and to those of other classes.
    """
    individuals = draw_unseen(judge, seed, count)
    rng = np.random.default_rng([seed, 21])
    gallery, query = (_embed(judge, [_view((individual,), rng) for individual in individuals]) for _ in range(2))
    couples = [_with_partner(individuals, i, rng) for i in range(count)]
    pairs = _embed(judge, [_view(couple, rng) for couple in couples])
    names = np.array([individual.class_name for individual in individuals])
    same_class = names[:, None] == names[None, :]
    cosines, itself = query @ gallery.T, np.eye(count, dtype=bool)
    is_hit = cosines.argmax(1) == np.arange(count)
    return {
        "individuals": count,
        "top1": float(is_hit.mean()),
        "top1_of_class": _top1(np.where(same_class, cosines, -2)),
        "top1_in_pairs": _top1(np.where(same_class, pairs @ gallery.T, -2)),
        "cosine_same": float(cosines[itself].mean()),
        "cosine_same_class": float(cosines[same_class & ~itself].mean()),
        "cosine_other_class": float(cosines[~same_class].mean()),
        "cosine_in_pairs": float((pairs @ gallery.T)[itself].mean()),
        "top1_by_class": {name: float(is_hit[names == name].mean()) for name in CLASSES if (names == name).any()},
    }


def measure_variants(judge: Judge, kind: str, seed: int) -> dict[str, Any]:
    """How well the judge tells the variants of held-out scenes or styles apart by their references.

    kind: "scene" or "style". Each variant has six references and six other pictures. `top1`: share of these pictures
    that are nearest to the mean of their own variant's references, among all variants of all three held-out names.
    `cosine_same`: mean cosine of a picture to that mean. `cosine_other`: to the means of the other variants of the same
    name.
    """
    names, variants = _VARIANTS[kind]
    chosen = [variant for variant in variants if variant[0] in names]
    concepts = [Concept(name=f"{kind}{i}", kind=kind, thing=thing) for i, thing in enumerate(chosen)]
    known, shown = (
        np.stack([getattr(judge.embed(concept_pictures(c, 6, 2 * seed + half)[0]), kind) for c in concepts])
        for half in (0, 1)
    )
    means = known.mean(1) / np.linalg.norm(known.mean(1), axis=-1, keepdims=True)
    cosines = np.einsum("vpd,wd->vwp", shown, means)
    same_name = np.array([[a[0] == b[0] for b in chosen] for a in chosen])
    itself = np.eye(len(chosen), dtype=bool)
    return {
        "variants": len(chosen),
        "top1": float((cosines.argmax(1) == np.arange(len(chosen))[:, None]).mean()),
        "cosine_same": float(cosines[itself].mean()),
        "cosine_other": float(cosines[same_name & ~itself].mean()),
    }


def draw_unseen(judge: Judge, seed: int, count: int) -> list[Individual]:
    """`count` different individuals, of each class in turn. The judge was trained on none of them."""
    training = judge.training
    seen = {lineup.draw_individual(training["seed"], i) for i in range(training["individuals"])}
    unseen: list[Individual] = []
    rng, names = np.random.default_rng([seed, 20]), tuple(CLASSES)
    while len(unseen) < count:
        individual = draw_individual(names[len(unseen) % len(names)], rng)
        if individual not in seen:
            unseen.append(individual)
            seen.add(individual)
    return unseen


def _view(subjects: tuple[Individual, ...], rng: np.random.Generator) -> PictureSpec:
    scene = TRAIN_SCENES[int(rng.integers(len(TRAIN_SCENES)))]
    style = "watercolour" if rng.random() < _WATERCOLOURS else "photo"
    return PictureSpec(subjects, scene, style, int(rng.integers(2**31)))


def _with_partner(individuals: list[Individual], i: int, rng: np.random.Generator) -> tuple[Individual, Individual]:
    """Individual i and one of another class, in random order."""
    individual = individuals[i]
    other_classes = [j for j, each in enumerate(individuals) if each.class_name != individual.class_name]
    partner = individuals[int(rng.choice(other_classes))]
    return (individual, partner) if rng.random() < 0.5 else (partner, individual)


def _embed(judge: Judge, specs: list[PictureSpec]) -> np.ndarray:
    return judge.embed(np.stack([draw(spec, judge.config.image_size) for spec in specs])).subject


def _top1(cosines: np.ndarray) -> float:
    return float((cosines.argmax(1) == np.arange(len(cosines))).mean())
