"""The training pictures of the judge: several drawings of each of many individuals, with known parameters.

This module does not import JAX, so that the drawing processes start quickly.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.pocket.architecture import IMAGE_SIZE
from blocklora_jax.pocket.world import draw, scenes, styles
from blocklora_jax.pocket.world.specs import (
    CLASS_TRAITS,
    CLASSES,
    PEOPLE,
    PLAIN,
    SCENES,
    STYLES,
    Individual,
    PictureSpec,
)
from blocklora_jax.pocket.world.specs import draw_individual as draw_of_class
from blocklora_jax.pocket.world.traits import Choices, Traits, draw_traits

_CLASS_ORDER = (*CLASSES, *PEOPLE)  # People come twice because they have the most traits.
_PAIRS, _PLAIN, _PHOTO, _WATERCOLOUR = 0.35, 0.07, 0.5, 0.1
_CHUNK = 250
# Beside the pictures: some of them as the autoencoder reconstructs them, see `softness.soften`.
SOFTENED_FILE = "softened.npy"


class Labels(NamedTuple):
    """The labels of n pictures of m individuals.

    traits: int32 [m, t], an individual's class and trait values as numbers from `TRAIT_VALUES`, filled up with -1.
    subjects: int32 [n, 2], the individuals in a picture, -1 for none. classes: fp32 [n, 18], 1 where a picture shows
    the class. scene: int32 [n], an index into `SCENES`; one more for plain. style: int32 [n], an index into `STYLES`.
    scene_variant, style_variant: int32 [n], numbers from `SCENE_VARIANTS` and `STYLE_VARIANTS`.
    """

    traits: np.ndarray
    subjects: np.ndarray
    classes: np.ndarray
    scene: np.ndarray
    style: np.ndarray
    scene_variant: np.ndarray
    style_variant: np.ndarray


def number_traits(name: str, traits: Traits) -> list[int]:
    """The numbers in `TRAIT_VALUES` of a class, scene or style: of its name, then of its traits."""
    return [TRAIT_VALUES[name, "", ""], *(TRAIT_VALUES[name, trait, value] for trait, value in traits)]


def _variants(choices: dict[str, Choices]) -> dict[tuple[str, Traits], int]:
    """All pairs (name, traits), numbered."""
    variants: dict[tuple[str, Traits], int] = {}
    for name, traits in choices.items():
        for values in itertools.product(*(tuple(dict.fromkeys(options)) for options in traits.values())):
            variants[name, tuple(zip(traits, values, strict=True))] = len(variants)
    return variants


SCENE_VARIANTS = _variants(scenes.TRAITS)
STYLE_VARIANTS = _variants(styles.TRAITS)
# A number for every value that a trait of a class, scene or style can have, and for each of their names.
TRAIT_VALUES = {
    key: number
    for number, key in enumerate(
        (name, trait, value)
        for name, choices in (CLASS_TRAITS | scenes.TRAITS | styles.TRAITS).items()
        for trait, options in ({"": ("",)} | dict(choices)).items()
        for value in dict.fromkeys(options)
    )
}


def draw_individual(seed: int, number: int) -> Individual:
    """Individual `number` of the endless series that `seed` gives. Neighbours are of different classes."""
    return draw_of_class(_CLASS_ORDER[number % len(_CLASS_ORDER)], np.random.default_rng([seed, 1, number]))


def make_spec(seed: int, individuals: int, number: int) -> tuple[PictureSpec, list[int]]:
    """Picture `number`, and the numbers of the `individuals` that it shows. Each in turn is the main subject."""
    rng = np.random.default_rng([seed, 2, number])
    shown = [number % individuals]
    if rng.random() < _PAIRS:
        # A picture never shows two of one class, as in the pictures that the base is trained on.
        second = int(rng.integers(individuals))
        while _CLASS_ORDER[second % len(_CLASS_ORDER)] == _CLASS_ORDER[shown[0] % len(_CLASS_ORDER)]:
            second = (second + 1) % individuals
        shown.insert(int(rng.integers(2)), second)
    scene = PLAIN if rng.random() < _PLAIN else SCENES[int(rng.integers(len(SCENES)))]
    kind = rng.random()
    rare_styles = tuple(name for name in STYLES if name not in ("photo", "watercolour"))
    style = (
        "photo"
        if kind < _PHOTO
        else "watercolour"
        if kind < _PHOTO + _WATERCOLOUR
        else rare_styles[rng.integers(len(rare_styles))]
    )
    spec = PictureSpec(
        tuple(draw_individual(seed, shown_one) for shown_one in shown),
        scene,
        style,
        int(rng.integers(2**31)),
        draw_traits(scenes.TRAITS[scene], rng),
        draw_traits(styles.TRAITS[style], rng),
    )
    return spec, shown


def label_pictures(seed: int, individuals: int, count: int) -> Labels:
    """The labels of pictures 0 to `count`, without drawing them."""
    everyone = [draw_individual(seed, i) for i in range(individuals)]
    specs, shown = zip(*(make_spec(seed, individuals, number) for number in range(count)), strict=True)
    classes, places = tuple(CLASSES), (*SCENES, PLAIN)
    present = np.zeros((count, len(classes)), np.float32)
    for row, spec in zip(present, specs, strict=True):
        row[[classes.index(subject.class_name) for subject in spec.subjects]] = 1
    return Labels(
        traits=_ragged([number_traits(each.class_name, each.traits) for each in everyone]),
        subjects=_ragged(list(shown), 2),
        classes=present,
        scene=np.array([places.index(spec.scene) for spec in specs], np.int32),
        style=np.array([STYLES.index(spec.style) for spec in specs], np.int32),
        scene_variant=np.array([SCENE_VARIANTS[spec.scene, spec.scene_traits] for spec in specs], np.int32),
        style_variant=np.array([STYLE_VARIANTS[spec.style, spec.style_traits] for spec in specs], np.int32),
    )


def draw_lineup(folder: Path, seed: int, individuals: int, count: int, workers: int = 2) -> np.ndarray:
    """Pictures uint8 [count, 64, 64, 3]. They are drawn into `folder`, unless an earlier call has drawn them there.

    Raises: UserError if the earlier call drew other pictures: their labels would be wrong.
    """
    path, record = folder / "pictures.npy", folder / "pictures.json"
    chosen = f"--seed {seed} --judge-individuals {individuals}"
    earlier = read_json(record) if record.exists() else None
    if earlier not in (None, chosen):
        raise UserError(f"{folder} holds the pictures of {earlier}, not of {chosen}: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    if earlier and path.exists() and (kept := np.load(path, mmap_mode="r")).shape == shape:
        return kept
    # Of what these were drawn, nothing is recorded.
    for unknown in (path, folder / SOFTENED_FILE):
        unknown.unlink(missing_ok=True)
    write_json(record, chosen)
    temporary = path.with_suffix(".part.npy")
    pictures = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
    starts = range(0, count, _CHUNK)
    drawer = functools.partial(_draw_chunk, seed, individuals, count)
    # "spawn", because forking a process in which JAX runs threads can deadlock.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = tqdm(pool.map(drawer, starts), total=len(starts), desc="draw", unit="chunk", dynamic_ncols=True)
        for start, part in zip(starts, parts, strict=True):
            pictures[start : start + len(part)] = part
    pictures.flush()
    temporary.replace(path)
    return np.load(path, mmap_mode="r")


def _draw_chunk(seed: int, individuals: int, count: int, start: int) -> np.ndarray:
    numbers = range(start, min(start + _CHUNK, count))
    return np.stack([draw(make_spec(seed, individuals, number)[0], IMAGE_SIZE) for number in numbers])


def variant_traits(variants: dict[tuple[str, Traits], int]) -> np.ndarray:
    """The numbers of every variant's traits, int32 [v, t], filled up with -1."""
    return _ragged([number_traits(name, traits) for name, traits in variants])


def _ragged(rows: list[list[int]], width: int | None = None) -> np.ndarray:
    """Rows of different lengths as int32 [n, w], filled with -1."""
    width = width or max(map(len, rows))
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int32)
