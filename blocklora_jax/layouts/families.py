"""Which Stable Diffusion a LoRA's layers are of: names and shapes of layers that only some of them have."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

FAMILIES = ("sd1", "sd2", "sdxl")
Layer = tuple[str, str]
_EARLY, _LATE, _XL = {"sd1", "sd2"}, {"sd2", "sdxl"}, {"sdxl"}
# Widths of the text that a U-Net reads, and of the first text encoder. Other widths are of small models: no clue.
_CROSS = {768: {"sd1"}, 1024: {"sd2"}, 2048: _XL}
_TEXT = {768: {"sd1", "sdxl"}, 1024: {"sd2"}}
# Paths that only some have.
_PATHS: tuple[tuple[re.Pattern[str], set[str]], ...] = (
    (re.compile(r"unet/.*transformer_blocks_[1-9]/|unet/up_blocks_0/attentions_|unet/add_embedding/"), _XL),
    (re.compile(r"unet/(down_blocks_0|up_blocks_[23])/attentions_|unet/(down|up)_blocks_3/"), _EARLY),
    (re.compile(r"unet/(down_blocks_2/downsamplers|up_blocks_2/upsamplers)_"), _EARLY),
    (re.compile(r"text_encoder/text_model/encoder/layers/(1[2-9]|2\d)/"), {"sd2"}),
    (re.compile(r"text_encoder_2/"), _XL),
)
# What trainers write: sd-scripts in the header, and in names where the families have their own.
_HEADERS = ("modelspec.architecture", "ss_base_model_version")
_HEADER_WORDS = (
    (re.compile(r"xl"), _XL),
    (re.compile(r"diffusion-v2|sd_v2"), {"sd2"}),
    (re.compile(r"diffusion-v1|sd_v1"), {"sd1"}),
)
_NAMES: tuple[tuple[re.Pattern[str], set[str]], ...] = (
    (re.compile(r"lora_te1_"), _XL),
    (re.compile(r"lora_te_"), _EARLY),
    (re.compile(r"(text_encoders\.)?clip_h\."), {"sd2"}),
    (re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_"), _XL),
)


class Shape(NamedTuple):
    """Inputs and outputs of a layer, and of how many axes its weight is: 2, 4, or 0 if that is not known."""

    inputs: int
    outputs: int
    axes: int = 0


def possible_families(
    shapes: Mapping[Layer, Shape], names: Collection[str] = (), metadata: Mapping[str, str] | None = None
) -> set[str]:
    """Those of `FAMILIES` that these layers can be of.

    Args:
        shapes: by component and Flax path.
        names: of layers as the file spells them.
        metadata: the file's header.

    Clues are heard in the order of their strength; one that contradicts all the stronger ones is left aside.
    """
    possible: set[str] = set(FAMILIES)
    for clue in (*_shape_clues(shapes), *_text_clues(names, metadata or {}), *_projection_clues(shapes)):
        possible = possible & clue or possible
    return possible


def _shape_clues(shapes: Mapping[Layer, Shape]) -> Iterator[set[str]]:
    for (component, layer), shape in sorted(shapes.items()):
        if component == "unet" and re.search(r"attn2/to_[kv]$", layer):
            yield _CROSS.get(shape.inputs, set())
        if component == "text_encoder":
            # fc1 maps the width to a larger one, fc2 back.
            yield _TEXT.get(min(shape.inputs, shape.outputs), set())
    for pattern, families in _PATHS:
        if any(pattern.match(f"{component}/{layer}") for component, layer in shapes):
            yield families


def _text_clues(names: Collection[str], metadata: Mapping[str, str]) -> Iterator[set[str]]:
    for key in _HEADERS:
        yield from (families for pattern, families in _HEADER_WORDS if pattern.search(metadata.get(key, "")))
    for pattern, families in _NAMES:
        if any(pattern.match(name) for name in names):
            yield families


def _projection_clues(shapes: Mapping[Layer, Shape]) -> Iterator[set[str]]:
    """Weak: sd-scripts trains the dense projections of 2.x as convolutions of 1x1, and some programs drop such axes."""
    axes = {shape.axes for (_, layer), shape in shapes.items() if re.search(r"attentions_\d+/proj_(in|out)$", layer)}
    if 4 in axes:
        yield {"sd1"}
    if axes == {2}:
        yield _LATE
