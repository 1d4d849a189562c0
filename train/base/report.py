"""How good the pocket model is, measured by its judge: `python -m train.base --report`.

Identity: see `measure_identity`. Captions: a class, scene or style of a picture is recognised if the judge gives that
name the highest probability. With n subjects, their classes must be the n most probable ones, each with a probability
of at least one half.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.judge import CLASS_NAMES, FOLDER, SCENE_NAMES, STYLE_NAMES, Judge, Labels, load_judge
from blocklora_jax.pocket.world import draw
from blocklora_jax.pocket.world.captions import caption
from blocklora_jax.pocket.world.specs import PictureSpec, draw_individual, random_spec
from train.base.identity import measure_identity, measure_variants
from train.base.pictures import PICTURE_SETS, PictureSet, read_picture_sets

# Minimum values. identity: share of unseen individuals that are recognised. drawings: share of captions that are
# recognised in drawings. one, two: the rate for generated pictures divided by the rate for drawings, with one subject
# and with two.
BARS = {"identity": 0.85, "drawings": 0.97, "one": 0.90, "two": 0.75}
PARTS = ("classes", "scene", "style")
_TRIES = 500
_BATCH = 50

Caption = tuple[tuple[str, ...], str, str]
Make = Callable[[list[PictureSpec]], np.ndarray]


def write_report(
    model: str, out: Path, seed: int = 1, counts: tuple[int, int] = (200, 100), cast: int = 500
) -> dict[str, Any]:
    """Measure a model ("pocket" or a folder), print the result and write `report.json` into `out`.

    counts: number of captions with one and with two subjects. Captions that the model was not trained on are preferred.

    Raises: UserError for a model that does not list its training pictures.
    """
    began = time.perf_counter()
    judge = load_judge(packed) if (packed := Path(model) / "judge").is_dir() else load_judge(FOLDER)
    sd = StableDiffusion.from_pretrained(model)
    if not (sets := read_picture_sets(folder := sd.checkpoint.tokenizer.parent)):
        raise UserError(f"{folder} does not name its training captions: it has no {PICTURE_SETS}")
    generate = lambda specs: generate_pictures(sd, [caption(spec) for spec in specs], seed)
    report = {
        "model": model,
        "seed": seed,
        "identity": measure_identity(judge, seed, cast),
        "variants": {kind: measure_variants(judge, kind, seed) for kind in ("scene", "style")},
        "captions": measure_captions(judge, generate, known_captions(sets), seed, counts),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(as_text(report))
    write_json(out / "report.json", report)
    return report


def measure_captions(
    judge: Judge, generate: Make, known: set[Caption], seed: int, counts: tuple[int, int]
) -> dict[str, Any]:
    """Recognition rates with "one" and "two" subjects, and by name (one subject), for three sets of pictures.

    "world": drawings of all classes, scenes and styles, including those that the base never saw. "generated": the
    base's picture for each of the captions. "drawn": four drawings for each of these captions, with other individuals.
    """
    rng = np.random.default_rng([seed, 30])
    result: dict[str, Any] = {}
    by_name: dict[str, Any] = {}
    for subjects, (name, count) in enumerate(zip(("one", "two"), counts, strict=True), start=1):
        asked = [new_caption(known, subjects, rng) for _ in range(count)]
        sets = {
            "world": ([random_spec(rng, held_out=True, subjects=subjects) for _ in range(4 * count)], draw_all),
            "drawn": ([_with_others(spec, rng) for spec in asked for _ in range(4)], draw_all),
            "generated": (asked, generate),
        }
        result[name] = {"captions": count, "unseen": sum(caption_key(spec) not in known for spec in asked)}
        for kind, (specs, make) in sets.items():
            hits = recognise(judge.classify(make(specs)), specs)
            if subjects == 1:
                by_name[kind] = _by_name(specs, hits)
            result[name][kind] = {part: float(hits[part].mean()) for part in PARTS}
        drawn, generated = result[name]["drawn"], result[name]["generated"]
        result[name]["ratio"] = {part: generated[part] / max(drawn[part], 1e-9) for part in PARTS}
    return result | {"by_name": by_name}


def caption_key(spec: PictureSpec) -> Caption:
    """The content of a caption, without its wording."""
    return tuple(subject.class_name for subject in spec.subjects), spec.scene, spec.style


def known_captions(learnt_from: Iterable[PictureSet]) -> set[Caption]:
    """The captions of all pictures of these sets."""
    return {caption_key(spec) for chosen in learnt_from for spec in chosen.specs()}


def new_caption(known: set[Caption], subjects: int, rng: np.random.Generator) -> PictureSpec:
    """A random picture of classes, scenes and styles that the base knows, with a caption new to it if possible."""
    for _ in range(_TRIES):
        spec = random_spec(rng, subjects=subjects)
        if caption_key(spec) not in known:
            break
    return spec


def _with_others(spec: PictureSpec, rng: np.random.Generator) -> PictureSpec:
    """A picture with the same caption, other individuals and another seed."""
    subjects = tuple(draw_individual(subject.class_name, rng) for subject in spec.subjects)
    return replace(spec, subjects=subjects, seed=int(rng.integers(2**31)))


def draw_all(specs: list[PictureSpec]) -> np.ndarray:
    """Drawings of all `specs`, uint8 [n, 64, 64, 3]."""
    return np.stack([draw(spec) for spec in specs])


def generate_pictures(sd: StableDiffusion, prompts: Sequence[str], seed: int, steps: int = 25) -> np.ndarray:
    """The base's pictures, uint8 [n, 64, 64, 3]. All batches have one size, so that one program is compiled."""
    filled = [*prompts, *[prompts[-1]] * (-len(prompts) % _BATCH)]
    starts = range(0, len(filled), _BATCH)
    parts = [sd.generate(filled[i : i + _BATCH], seed=1000 * seed + i, steps=steps) for i in starts]
    return np.concatenate(parts)[: len(prompts)]


def recognise(labels: Labels, specs: list[PictureSpec]) -> dict[str, np.ndarray]:
    """bool [n] for each of `PARTS`: does the judge recognise in the picture what the caption says?"""
    scenes = np.array([SCENE_NAMES.index(spec.scene) for spec in specs])
    styles = np.array([STYLE_NAMES.index(spec.style) for spec in specs])
    return {
        "classes": np.array([_shows(row, spec) for row, spec in zip(labels.classes, specs, strict=True)]),
        "scene": labels.scene.argmax(1) == scenes,
        "style": labels.style.argmax(1) == styles,
    }


def _shows(probabilities: np.ndarray, spec: PictureSpec) -> bool:
    wanted = {CLASS_NAMES.index(subject.class_name) for subject in spec.subjects}
    best = np.argsort(-probabilities)[: len(wanted)]
    return set(best.tolist()) == wanted and (len(wanted) == 1 or bool((probabilities[best] >= 0.5).all()))


def _by_name(specs: list[PictureSpec], hits: dict[str, np.ndarray]) -> dict[str, dict[str, list[float]]]:
    """For each name of each part: [share recognised, number] of the pictures whose caption has the name."""
    names = {
        "classes": [spec.subjects[0].class_name for spec in specs],
        "scene": [spec.scene for spec in specs],
        "style": [spec.style for spec in specs],
    }
    return {
        part: {
            name: [float(hits[part][chosen].mean()), int(chosen.sum())]
            for name in sorted(set(names[part]))
            if (chosen := np.array(names[part]) == name).any()
        }
        for part in PARTS
    }


def as_text(report: dict[str, Any]) -> str:
    """The report as text with tables."""
    identity, captions = report["identity"], report["captions"]
    lines = [
        f"{report['model']}, seed {report['seed']}, {report['seconds']} s",
        f"identity: top-1 {_bar(identity['top1'], BARS['identity'])} among {identity['individuals']} unseen"
        f" individuals; {identity['top1_of_class']:.1%} among those of its class, "
        f"{identity['top1_in_pairs']:.1%} when the picture shows a second individual",
        f"cosine to the same individual {identity['cosine_same']:.3f} (beside a second one"
        f" {identity['cosine_in_pairs']:.3f}), to others of its class {identity['cosine_same_class']:.3f}, "
        f"to those of other classes {identity['cosine_other_class']:.3f}",
    ]
    for kind, rows in report["variants"].items():
        lines.append(
            f"{kind} variants: top-1 {rows['top1']:.1%} among {rows['variants']}; cosine to the references of the same "
            f"variant {rows['cosine_same']:.3f}, of other variants of the {kind} {rows['cosine_other']:.3f}"
        )
    for name in ("one", "two"):
        rows = captions[name]
        lines.append(
            f"\n{name} subject{'s' * (name == 'two')}: {rows['captions']} captions, "
            f"{rows['unseen']} of them not in the base's training"
        )
        lines.append(f"{'recognised':12}{'all drawn':>14}{'drawn':>12}{'generated':>12}   generated / drawn")
        for part in PARTS:
            world, drawn, made = (rows[kind][part] for kind in ("world", "drawn", "generated"))
            # With two subjects, only their classes have to reach a minimum.
            bar = BARS[name] if name == "one" or part == "classes" else None
            lines.append(
                f"{part:12}{_bar(world, BARS['drawings'] if name == 'one' else None):>14}{drawn:12.1%}{made:12.1%}   "
                f"{_bar(rows['ratio'][part], bar)}"
            )
    return "\n".join([*lines, *_name_table(captions["by_name"], identity["top1_by_class"])])


def _bar(value: float, bar: float | None) -> str:
    return f"{value:.1%}" if bar is None else f"{value:.1%} ({'>=' if value >= bar else '<'} {bar:.0%})"


def _name_table(by_name: dict[str, Any], top1: dict[str, float]) -> list[str]:
    lines = [f"\n{'one subject':16}{'all drawn':>10}{'drawn':>10}{'generated':>10}{'(captions)':>12}{'identity':>10}"]
    for part, known in zip(PARTS, (CLASS_NAMES, SCENE_NAMES, STYLE_NAMES), strict=True):
        for name in known:
            shares = [by_name[kind][part].get(name, [None, 0]) for kind in ("world", "drawn", "generated")]
            cells = "".join(f"{'-' if share is None else f'{share:.0%}':>10}" for share, _ in shares)
            identity = f"{top1[name]:.0%}" if part == "classes" and name in top1 else ""
            lines.append(f"{name:16}{cells}{shares[-1][1]:12d}{identity:>10}")
    return lines
