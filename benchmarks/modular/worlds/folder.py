"""Concepts that are folders of pictures, as `train.concepts --concepts DIR` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.modular.core.methods import PLAIN_RANK, RECIPES
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from train.concept.common_settings import OF_ITS_OWN
from train.concept.config import ConceptConfig, parse_args, read_yaml, settings_as_flags
from train.concept.images import Picture, crop_square, read_pictures
from train.concept.prompts import captions_for, class_caption
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions

# A file of the prompts that are asked of one concept, beside its pictures: `prompts: [a photo of {} on a beach, …]`.
PROMPTS = "prompts.yaml"
# What a folder's concept.yaml may say here; slots, seeds and run folders are the bench's.
_OWN = OF_ITS_OWN - {"slot", "seed", "out"}


@dataclass(frozen=True)
class RealConcept:
    """A folder of pictures and its settings."""

    config: ConceptConfig

    @property
    def name(self) -> str:
        """The token without its brackets."""
        return self.config.name

    @property
    def kind(self) -> str:
        """person, object, scene or style."""
        return self.config.data.kind

    @property
    def token(self) -> str:
        """The word that stands for the concept in prompts."""
        return self.config.token

    @property
    def class_noun(self) -> str:
        """What it is, in a word that the model knows."""
        return self.config.class_noun

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return self.config.images

    @cached_property
    def _read(self) -> list[Picture]:
        return read_pictures(self.folder)

    @property
    def pictures(self) -> list[Image.Image]:
        """The references, RGB, of any sizes."""
        return [picture.image for picture in self._read]

    @property
    def plain_captions(self) -> list[str]:
        """What the references show, with the class noun for the concept."""
        templates = captions_for(self.config.called)
        written = [p.caption or templates[i % len(templates)] for i, p in enumerate(self._read)]
        return [class_caption(caption, self.config.called) for caption in written]

    @cached_property
    def prompts(self) -> list[str]:
        """Its own prompts, with {} for the concept; none if it has no `PROMPTS`. Raises: UserError if malformed."""
        path = self.folder / PROMPTS
        found = read_yaml(path).get("prompts") if path.is_file() else []
        if not isinstance(found, list) or not all(isinstance(text, str) and text.count("{}") == 1 for text in found):
            raise UserError(f"{path} must have a list `prompts` of sentences with {{}} for the concept, once each")
        return found

    def thumbnail(self, size: int) -> np.ndarray:
        """The first reference, uint8 [size, size, 3]."""
        return np.asarray(crop_square(self._read[0], size).image)


def read_folder(folder: Path, settings: Mapping[str, Any]) -> list[RealConcept]:
    """The concepts of a folder of folders, by name. settings: of `train.concept`, for all.

    Raises: UserError for what `train.concepts` does not take either, two of one token, and a training without tokens.
    """
    if not folder.is_dir():
        raise UserError(f"--concepts {folder} is no folder: it holds a folder of pictures for each concept")
    options = ConceptsOptions(concepts=folder, out=folder)
    found = [RealConcept(config) for config in read_concepts(options, settings_as_flags(settings))]
    names = [concept.name for concept in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{folder}: two concepts have the token <{twice[0]}>: give one another `token` in its concept.yaml"
        )
    if found[0].config.tokens.token_vectors == 0:
        raise UserError("the bench calls concepts by their tokens: set token_vectors to 1 or more")
    return found


def write_prompts(folder: Path, prompts: Sequence[str]) -> None:
    """Write the prompts that are asked of one concept. folder: of its pictures."""
    (folder / PROMPTS).write_text(yaml.safe_dump({"prompts": list(prompts)}, width=1000, allow_unicode=True))


def first_concepts(found: Sequence[RealConcept], count: int) -> Sequence[RealConcept]:
    """The first `count`. Raises: UserError if there are fewer."""
    if count > len(found):
        raise UserError(f"--counts asks for {count} concepts, and there are {len(found)}: give --counts 1 {len(found)}")
    return found[:count]


def concept_entries(concepts: Sequence[RealConcept], folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a concepts file (see `train.concepts`); nothing is written into `folder`."""
    defaults = ConceptConfig.from_settings(images=Path(), token="<a>", class_noun="a", out=Path()).settings()
    entries = {}
    for concept in concepts:
        # A concept's own folders are found from anywhere.
        config = concept.config.with_settings(images=concept.folder.resolve())
        if others := config.erasure.other_images:
            config = config.with_settings(other_images=others.resolve())
        changed = {name for name in _OWN if config.settings()[name] != defaults[name]}
        changed |= {"images", "token", "class_noun"}
        entries[concept.name] = {name: value for name, value in config.to_json().items() if name in changed}
    return entries


def fair_recipes(sd: StableDiffusion, settings: Mapping[str, Any], blocks: int) -> dict[str, dict[str, Any]]:
    """The recipes, where those without blocks have the rank at which they train as many numbers as ours on this model.

    Those in a basis take the one of the settings. They are left out where there is none. All that train take the
    learning rate of the settings: the recipes' own are those of the pocket model.
    """
    needed = {"images": ".", "token": "<a>", "class-noun": "a", "out": "."}
    config = parse_args(settings_as_flags({**needed, **settings}))
    shapes = [shape for group in select_kernels(sd.params, config.adapter.layers).values() for shape in group.values()]
    rank = equal_rank(
        [(shape[-2], shape[-1]) for shape in shapes], RECIPES["blocklora"]["rank"], blocks, config.adapter.axis
    )
    # The packaged basis is that of the pocket model.
    basis = None if config.adapter.basis == "pocket" else config.adapter.basis
    own = {"basis": basis, "learning_rate": config.optimizer.learning_rate}
    recipes = {}
    for name, recipe in RECIPES.items():
        if recipe["basis"] and not basis:
            continue
        fair = recipe | {key: value for key, value in own.items() if recipe[key]}
        recipes[name] = fair | ({"rank": rank} if recipe["rank"] == PLAIN_RANK else {})
    return recipes


def equal_rank(layers: Sequence[tuple[int, int]], rank: int, blocks: int, axis: str) -> int:
    """At which rank all of the layers (inputs, outputs) train as many numbers as at `rank` one of their blocks.

    >>> equal_rank([(160, 40)], rank=10, blocks=16, axis="in")
    2
    """
    inputs, outputs = (1 / blocks if axis in cut else 1.0 for cut in (("in", "grid"), ("out", "grid")))
    ours = sum(rank * (n * inputs + m * outputs) for n, m in layers)
    return max(1, round(ours / sum(n + m for n, m in layers)))
