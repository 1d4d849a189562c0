"""The small world that the pocket model knows. Its pictures are drawn as a pure function of a specification.

`python -m blocklora_jax.pocket.world_sheet --out sheet.png` draws a contact sheet of it.
"""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image, ImageDraw

from blocklora_jax.pocket.world import animals, birds, people, robots, scenes, styles, things, vehicles
from blocklora_jax.pocket.world.captions import (
    SCENE_PHRASES,
    STYLE_NOUNS,
    TEMPLATES,
    caption,
    prompt,
    scene_phrase,
    style_phrase,
    subject_phrase,
    vocabulary,
)
from blocklora_jax.pocket.world.pen import Pen
from blocklora_jax.pocket.world.pose import draw_pose
from blocklora_jax.pocket.world.specs import (
    CLASSES,
    HELD_OUT_CLASSES,
    HELD_OUT_SCENES,
    HELD_OUT_STYLES,
    PEOPLE,
    PLAIN,
    SCENES,
    STYLES,
    TRAIN_CLASSES,
    TRAIN_SCENES,
    TRAIN_STYLES,
    Individual,
    PictureSpec,
    draw_individual,
    random_spec,
)
from blocklora_jax.pocket.world.traits import draw_traits

__all__ = [
    "CLASSES", "HELD_OUT_CLASSES", "HELD_OUT_SCENES", "HELD_OUT_STYLES", "PEOPLE", "PLAIN", "SCENES", "SCENE_PHRASES",
    "STYLES", "STYLE_NOUNS", "TEMPLATES", "TRAIN_CLASSES", "TRAIN_SCENES", "TRAIN_STYLES", "Individual", "PictureSpec",
    "caption", "draw", "draw_individual", "prompt", "random_spec", "sample_batch", "sample_spec", "scene_phrase",
    "style_phrase",
    "subject_boxes", "subject_phrase", "vocabulary",
]  # fmt: skip

OVERSAMPLING = 3
_DRAW = {
    **dict.fromkeys(people.TRAITS, people.draw_person),
    **dict.fromkeys(animals.TRAITS, animals.draw_seated),
    "bird": birds.draw_bird, "mug": things.draw_mug, "teapot": things.draw_teapot, "lamp": things.draw_lamp,
    "backpack": things.draw_backpack, "house": things.draw_house, "robot": robots.draw_robot, "car": vehicles.draw_car,
    "boat": vehicles.draw_boat, "rocket": vehicles.draw_rocket,
}  # fmt: skip
# Width of a drawing that is one unit high. Parts beyond this width may overlap a neighbour.
_WIDTH = {
    "man": 0.76, "woman": 0.75, "boy": 0.75, "girl": 0.78, "dog": 0.8, "cat": 0.84, "bear": 0.72, "rabbit": 0.66,
    "bird": 1.08, "mug": 0.9, "teapot": 1.05, "lamp": 0.76, "backpack": 0.86, "house": 0.96, "robot": 0.86, "car": 1.42,
    "boat": 1.14, "rocket": 0.72,
}  # fmt: skip
# By number of subjects: their centres, and the largest width and height of each, in units of the picture's side.
_PLACES = {
    1: ((0.5,), 0.88, 0.82),
    2: ((0.27, 0.73), 0.49, 0.62),
    3: ((0.18, 0.5, 0.82), 0.33, 0.5),
}


def subject_boxes(count: int) -> list[tuple[float, float, float, float]]:
    """The box of each of `count` subjects, from left to right in the picture: left, top, right, bottom in 0..1."""
    centres, wide, high = _PLACES[count]
    return [(x - wide / 2, 0.9 - high, x + wide / 2, 1.0) for x in centres]


def _draw_subject(image: Image.Image, subject: Individual, place: int, count: int, rng: np.random.Generator) -> None:
    centres, wide, high = _PLACES[count]
    name = subject.class_name
    u = rng.random(5)
    bust = CLASSES[name] == "person"
    # A bust is cut off by the lower edge, so it may be larger.
    scale = min(high * (1.15 if bust else 1.0), wide / _WIDTH[name]) * (0.92 + 0.11 * u[0])
    x = centres[place] + (0.12 if count == 1 else 0.03) * (u[1] - 0.5)
    y = -0.01 - 0.03 * u[2] if bust else (0.07 if count == 1 else 0.1) + 0.06 * u[2]
    if not bust:
        half, flat = 0.42 * _WIDTH[name] * scale, 0.05 * scale
        box = ((x - half), 1 - y - flat, (x + half), 1 - y + flat)
        ImageDraw.Draw(image, "RGBA").ellipse([image.width * v for v in box], (20, 16, 40, 80))
    pen = Pen(image, x, y, scale, flip=bool(u[3] < 0.5), turn=6 * (u[4] - 0.5), ink_width=1.0 if count == 1 else 0.8)
    _DRAW[name](pen, name, dict(subject.traits), draw_pose(rng))


def draw(spec: PictureSpec, size: int = 64) -> np.ndarray:
    """The picture of a specification, uint8 [size, size, 3]: the same specification always gives the same picture."""
    rng = np.random.default_rng(spec.seed)
    scene_traits = dict(draw_traits(scenes.TRAITS[spec.scene], rng)) | dict(spec.scene_traits)
    image = scenes.draw_scene(spec.scene, scene_traits, OVERSAMPLING * size, rng)
    for place, subject in enumerate(spec.subjects):
        _draw_subject(image, subject, place, len(spec.subjects), rng)
    picture = np.asarray(image.reduce(OVERSAMPLING))
    style_traits = dict(draw_traits(styles.TRAITS[spec.style], rng)) | dict(spec.style_traits)
    return styles.apply_style(spec.style, picture, style_traits, rng)


def sample_spec(seed: int, index: int, several: float = 0.35) -> tuple[PictureSpec, np.random.Generator]:
    """The specification of picture `index` of `sample_batch`, and the random generator to use for its caption."""
    rng = np.random.default_rng([seed, index])
    return random_spec(rng, several=several), rng


def _sample(seed: int, size: int, several: float, index: int) -> tuple[np.ndarray, str]:
    spec, rng = sample_spec(seed, index, several)
    return draw(spec, size), caption(spec, rng)


def _sample_range(seed: int, size: int, several: float, span: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    pairs = [_sample(seed, size, several, index) for index in range(*span)]
    return np.stack([picture for picture, _ in pairs]), [words for _, words in pairs]


def sample_batch(
    seed: int, start: int, count: int, workers: int = 0, size: int = 64, several: float = 0.35
) -> tuple[np.ndarray, list[str]]:
    """Pictures `start` to `start + count` of the endless training set `seed`, and their captions.

    Picture i depends only on (seed, i), not on how the set is cut into batches.

    Args:
        seed: the training set.
        start, count: the first picture, and the number of pictures.
        workers: number of processes that draw; 0 draws in this process. Useful for more than some thousand pictures.
        size: side of the pictures in pixels.
        several: the share of pictures with more than one subject, see `random_spec`.

    Returns:
        pictures uint8 [count, size, size, 3], and count captions.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if workers == 0:
        return _sample_range(seed, size, several, (start, start + count))
    spans = [(i, min(i + 250, start + count)) for i in range(start, start + count, 250)]
    # Spawned, because forking a process in which JAX runs threads can deadlock.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(functools.partial(_sample_range, seed, size, several), spans))
    return np.concatenate([p for p, _ in parts]), [words for _, part in parts for words in part]
