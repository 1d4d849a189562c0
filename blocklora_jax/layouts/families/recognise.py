"""Recognises the family of a LoRA by names and shapes of layers that only some families have."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from blocklora_jax.layouts.families.family import Clue, Family
from blocklora_jax.layouts.families.table import FAMILIES

Layer = tuple[str, str]
# Fields of the header in which trainers say which model they trained on. Source: sd-scripts.
_HEADERS = ("modelspec.architecture", "ss_base_model_version")


class Shape(NamedTuple):
    """Inputs and outputs of a layer, and how many axes its weight has: 2, 4, or 0 if that is not known."""

    inputs: int
    outputs: int
    axes: int = 0


def possible_families(
    shapes: Mapping[Layer, Shape], names: Collection[str] = (), metadata: Mapping[str, str] | None = None
) -> set[str]:
    """The names in `FAMILIES` of the families that can have these layers.

    Args:
        shapes: by component and Flax path.
        names: names of layers as the file spells them.
        metadata: the file's header.

    Clues are used from the strongest to the weakest. A clue is ignored if it rules out all families that remain.
    """
    possible: set[str] = set(FAMILIES)
    for clue in (*_shape_clues(shapes), *_text_clues(names, metadata or {}), *_projection_clues(shapes)):
        possible = possible & clue or possible
    return possible


def _shape_clues(shapes: Mapping[Layer, Shape]) -> Iterator[set[str]]:
    # Small models have widths that no published model has. They give the empty set, which is ignored.
    for (component, layer), shape in sorted(shapes.items()):
        if component == "unet" and re.search(r"attn2/to_[kv]$", layer):
            yield _families_with(lambda family, width=shape.inputs: family.cross_width == width)
        if component == "text_encoder":
            # fc1 maps the width to a larger one, and fc2 maps it back.
            width = min(shape.inputs, shape.outputs)
            yield _families_with(lambda family, width=width: family.text_width == width)
    for clue in _clues("layer"):
        if any(clue.pattern.match(f"{component}/{layer}") for component, layer in shapes):
            yield _families_with(lambda family, clue=clue: clue in family.clues)


def _text_clues(names: Collection[str], metadata: Mapping[str, str]) -> Iterator[set[str]]:
    for key in _HEADERS:
        for clue in _clues("header"):
            if clue.pattern.search(metadata.get(key, "")):
                yield _families_with(lambda family, clue=clue: clue in family.clues)
    for clue in _clues("name"):
        if any(clue.pattern.match(name) for name in names):
            yield _families_with(lambda family, clue=clue: clue in family.clues)


def _projection_clues(shapes: Mapping[Layer, Shape]) -> Iterator[set[str]]:
    """Weak clues: sd-scripts trains the dense projections of 2.x as 1x1 convolutions; some programs drop such axes."""
    axes = {shape.axes for (_, layer), shape in shapes.items() if re.search(r"attentions_\d+/proj_(in|out)$", layer)}
    if 4 in axes:
        yield _families_with(lambda family: family.has_convolution_projections)
    if axes == {2}:
        yield _families_with(lambda family: not family.has_convolution_projections)


def _families_with(condition: Callable[[Family], bool]) -> set[str]:
    return {name for name, family in FAMILIES.items() if condition(family)}


def _clues(kind: str) -> list[Clue]:
    clues = {clue for family in FAMILIES.values() for clue in family.clues if clue.kind == kind}
    return sorted(clues, key=lambda clue: clue.rank)
