"""How well the judge recognises individuals that it was not trained on, and variants of scenes and styles."""

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

_WATERCOLOURS = 1 / 6  # As in a concept's references; the others are photos.
_VARIANTS = {"scene": (HELD_OUT_SCENES, lineup.SCENE_VARIANTS), "style": (HELD_OUT_STYLES, lineup.STYLE_VARIANTS)}


def measure_identity(judge: Judge, seed: int, count: int = 500) -> dict[str, Any]:
    """Retrieval among `count` individuals of all classes that the judge was not trained on, and mean cosines.

    A gallery picture and a query picture each: the individual alone, in scenes, poses and places drawn apart, photo or
    (one in six) watercolour. `top1`: share of queries whose nearest gallery picture shows the same individual;
    `top1_of_class`: among the gallery pictures of its class only; `top1_in_pairs`: the same, for queries in which it
    stands beside one of another class. `cosine_same`, `cosine_same_class`, `cosine_other_class`: query to gallery
    picture of the same individual, of others of its class, of other classes.
    """
    cast = draw_unseen(judge, seed, count)
    rng = np.random.default_rng([seed, 21])
    gallery, query = (_embed(judge, [_view((member,), rng) for member in cast]) for _ in range(2))
    beside = [_partner(cast, i, rng) for i in range(count)]
    pairs = _embed(judge, [_view(pair, rng) for pair in beside])
    names = np.array([member.class_name for member in cast])
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
    """Which variant of a held-out "scene" or "style" is it? Every one against references as a concept has them.

    Six references and six other pictures of each variant. `top1`: share of pictures nearest to the mean of their own
    variant's references, among all variants of all three held-out names; `cosine_same`: to that mean; `cosine_other`:
    to the means of the other variants of the same name.
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
    """`count` different individuals, the classes in turn, none of whom the judge's training drew."""
    made = judge.training
    seen = {lineup.draw_individual(made["seed"], i) for i in range(made["individuals"])}
    cast: list[Individual] = []
    rng, names = np.random.default_rng([seed, 20]), tuple(CLASSES)
    while len(cast) < count:
        member = draw_individual(names[len(cast) % len(names)], rng)
        if member not in seen:
            cast.append(member)
            seen.add(member)
    return cast


def _view(subjects: tuple[Individual, ...], rng: np.random.Generator) -> PictureSpec:
    scene = TRAIN_SCENES[int(rng.integers(len(TRAIN_SCENES)))]
    style = "watercolour" if rng.random() < _WATERCOLOURS else "photo"
    return PictureSpec(subjects, scene, style, int(rng.integers(2**31)))


def _partner(cast: list[Individual], i: int, rng: np.random.Generator) -> tuple[Individual, Individual]:
    """Individual i and one of another class, at a random side."""
    other = cast[int(rng.choice([j for j, c in enumerate(cast) if c.class_name != cast[i].class_name]))]
    return (cast[i], other) if rng.random() < 0.5 else (other, cast[i])


def _embed(judge: Judge, specs: list[PictureSpec]) -> np.ndarray:
    return judge.embed(np.stack([draw(spec, judge.config.image_size) for spec in specs])).subject


def _top1(cosines: np.ndarray) -> float:
    return float((cosines.argmax(1) == np.arange(len(cosines))).mean())
