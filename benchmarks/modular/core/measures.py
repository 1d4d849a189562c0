"""The interfaces of the bench: concepts, measures and prompts. The pocket world and real concepts implement them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from blocklora_jax.pipeline import StableDiffusion


class Subject(Protocol):
    """A concept. Prompts name it by `token` and `class_noun`. `kind` is person, object (or animal), scene or style."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def token(self) -> str: ...

    @property
    def class_noun(self) -> str: ...


class Scores(Protocol):
    """A named tuple of scores, fp32 [n] each. It has at least these."""

    @property
    def text(self) -> np.ndarray: ...

    @property
    def image(self) -> np.ndarray: ...

    @property
    def identity(self) -> np.ndarray: ...

    @property
    def right(self) -> np.ndarray: ...

    @property
    def leakage(self) -> np.ndarray: ...

    def _asdict(self) -> dict[str, np.ndarray]: ...


class Measurer(Protocol):
    """Scores pictures uint8 [n, h, w, 3]."""

    def score(self, concept: Any, pictures: np.ndarray, plain: Sequence[str], merged: Sequence[Any]) -> Scores:
        """Scores of pictures of a concept, while `merged` are in the model. plain: the prompts without tokens."""
        ...

    def ceiling(self, concept: Any, count: int) -> Scores:
        """Scores of real pictures of the concept."""
        ...

    def drawn_pairs(self, pairs: Sequence[Any]) -> np.ndarray | None:
        """Real pictures of pairs [n, h, w, 3]; None if there are none."""
        ...

    def both_there(self, pair: Any, pictures: np.ndarray) -> np.ndarray:
        """Whether each picture shows both of a pair: bool [n]."""
        ...


class Tasks(Protocol):
    """The prompts that the models draw."""

    def concept_prompts(self, concept: Any, count: int) -> list[Any]:
        """Prompts of one concept, each with `text`, `plain` and `category`."""
        ...

    def pair_prompts(self, concepts: Sequence[Any], count: int) -> list[Any]:
        """Prompts of two people or objects, each with `first`, `second` and `text`."""
        ...

    def stylised_prompts(self, concepts: Sequence[Any], count: int) -> list[Any]:
        """Prompts of a person or object (`first`) in a style (`second`)."""
        ...

    def plain_prompts(self, concepts: Sequence[Any]) -> list[str]:
        """Prompts without any concept."""
        ...


@dataclass(frozen=True, kw_only=True)
class World:
    """The concepts, prompts and measures of a bench.

    concepts: (count, seed) -> those that are taught. write: (concepts, folder) -> entries of a file for
    `train.concepts`, pictures in the folder where they have none. recipes: settings of the trainings by name. measures:
    (model, concepts, seed) -> what scores pictures. reference: a concept's first picture, uint8 [h, w, 3]. groups: the
    kinds of concepts that have a table of their own, by its title; the headline first. settings: of every training.
    basis: a file of the text basis that recipes share.
    ceiling: what real pictures are called in the table.
    """

    concepts: Callable[[int, int], Sequence[Any]]
    write: Callable[[Sequence[Any], Path], dict[str, dict[str, Any]]]
    recipes: Mapping[str, Mapping[str, Any]]
    tasks: Tasks
    measures: Callable[[StableDiffusion, Sequence[Any], int], Measurer]
    reference: Callable[[Any], np.ndarray]
    groups: Mapping[str, Collection[str]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    basis: Path | None = None
    ceiling: str = "*real drawings*"
