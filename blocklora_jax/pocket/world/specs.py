"""What pictures can show: classes, scenes and styles, individuals, and the specification of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blocklora_jax.pocket.world import animals, birds, people, robots, scenes, styles, things, vehicles
from blocklora_jax.pocket.world.traits import Choices, Traits, check_traits, draw_traits

CLASS_TRAITS: dict[str, Choices] = {
    **people.TRAITS,
    **animals.TRAITS,
    **birds.TRAITS,
    **things.TRAITS,
    **robots.TRAITS,
    **vehicles.TRAITS,
}
CLASSES: dict[str, str] = {
    **dict.fromkeys(people.TRAITS, "person"),
    **dict.fromkeys((*animals.TRAITS, *birds.TRAITS), "animal"),
    **dict.fromkeys((*things.TRAITS, *robots.TRAITS, *vehicles.TRAITS), "object"),
}
PLAIN = "plain"  # a bare backdrop, which captions do not mention
SCENES: tuple[str, ...] = tuple(name for name in scenes.TRAITS if name != PLAIN)
STYLES: tuple[str, ...] = tuple(styles.TRAITS)

HELD_OUT_CLASSES = ("rabbit", "lamp", "rocket")
HELD_OUT_SCENES = ("garden", "space", "volcano")
HELD_OUT_STYLES = ("mosaic", "poster", "stained glass")

PEOPLE = tuple(name for name, kind in CLASSES.items() if kind == "person")
TRAIN_CLASSES = tuple(name for name in CLASSES if name not in HELD_OUT_CLASSES)
TRAIN_SCENES = tuple(name for name in SCENES if name not in HELD_OUT_SCENES)
TRAIN_STYLES = tuple(name for name in STYLES if name not in HELD_OUT_STYLES)


@dataclass(frozen=True)
class Individual:
    """A member of a class. class_name: a key of `CLASSES`. traits: captions never mention them."""

    class_name: str
    traits: Traits

    def __post_init__(self) -> None:
        if self.class_name not in CLASSES:
            raise ValueError(f"unknown class {self.class_name!r}; known are {', '.join(CLASSES)}")
        choices = CLASS_TRAITS[self.class_name]
        check_traits(choices, self.traits, self.class_name)
        missing = set(choices) - {name for name, _ in self.traits}
        if missing:
            raise ValueError(f"{self.class_name} lacks traits: {', '.join(sorted(missing))}")


@dataclass(frozen=True)
class PictureSpec:
    """The specification of a picture: up to three subjects from left to right, a scene, a style, and a seed.

    The seed determines everything else that varies. `scene_traits` and `style_traits` fix traits that the seed would
    otherwise determine, so that all pictures show the same garden or mosaic.
    """

    subjects: tuple[Individual, ...]
    scene: str = PLAIN
    style: str = "photo"
    seed: int = 0
    scene_traits: Traits = ()
    style_traits: Traits = ()

    def __post_init__(self) -> None:
        if not 0 <= len(self.subjects) <= 3:
            raise ValueError(f"a picture shows up to three subjects, not {len(self.subjects)}")
        if self.scene != PLAIN and self.scene not in SCENES:
            raise ValueError(f"unknown scene {self.scene!r}; known are {PLAIN}, {', '.join(SCENES)}")
        if self.style not in STYLES:
            raise ValueError(f"unknown style {self.style!r}; known are {', '.join(STYLES)}")
        check_traits(scenes.TRAITS[self.scene], self.scene_traits, self.scene)
        check_traits(styles.TRAITS[self.style], self.style_traits, self.style)


def draw_individual(class_name: str, rng: np.random.Generator) -> Individual:
    """A random member of a class."""
    if class_name not in CLASSES:
        raise ValueError(f"unknown class {class_name!r}; known are {', '.join(CLASSES)}")
    return Individual(class_name, draw_traits(CLASS_TRAITS[class_name], rng))


def _pick(options: tuple[str, ...], u: float) -> str:
    return options[int(u * len(options))]


def random_spec(
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    subjects: int | None = None,
    style: str | None = None,
    scene: str | None = None,
    several: float = 0.35,
) -> PictureSpec:
    """A random picture.

    held_out: use also the classes, scenes and styles that base training never shows.
    subjects, style, scene: the number of subjects, the style and the scene, if they should not be random.
    several: the share of pictures with several subjects. One in seven of these has three, the others two.

    Subjects of a picture have different classes. 45 % of subjects are people, 45 % of styles are photos, and 7 % of
    pictures have no scene.
    """
    classes, places, looks = (CLASSES, SCENES, STYLES) if held_out else (TRAIN_CLASSES, TRAIN_SCENES, TRAIN_STYLES)
    others = tuple(name for name in classes if name not in PEOPLE)
    u = rng.random(4)
    count = subjects or (1 if u[0] < 1 - several else 2 if u[0] < 1 - several / 7 else 3)
    names: list[str] = []
    while len(names) < count:
        kind, which = rng.random(2)
        name = _pick(PEOPLE if kind < 0.45 else others, which)
        if name not in names:
            names.append(name)
    scene = scene or (PLAIN if u[1] < 0.07 else _pick(tuple(places), u[2]))
    style = style or ("photo" if u[3] < 0.45 else _pick(tuple(looks)[1:], (u[3] - 0.45) / 0.55))
    chosen = tuple(draw_individual(name, rng) for name in names)
    return PictureSpec(chosen, scene, style, int(rng.integers(2**31)))
