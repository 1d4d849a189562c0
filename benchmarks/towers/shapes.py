"""The text encoders of Stable Diffusion 1.5, 2.x and SDXL by shape, whole or cut off after some layers."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from blocklora_jax.models.config import TextConfig
from blocklora_jax.testing.random_folder import read_configs


class Shape(NamedTuple):
    """One text encoder.

    model, part: where its published config is (see `testing.random_folder`). layers: how many cross-attention's states
    have passed. penultimate: the states are read before a last layer, and have no final norm. slots: how many
    codewords are made by default; deep text encoders take long.
    """

    title: str
    model: str
    part: str
    layers: tuple[int, ...]
    penultimate: bool = False
    slots: int = 4


SHAPES = {
    "sd15": Shape("SD 1.x, ViT-L/14", "sd15", "text_encoder", (2, 6, 12)),
    "sd2": Shape("SD 2.x, OpenCLIP ViT-H", "sd21", "text_encoder", (6, 23), slots=2),
    "sdxl2": Shape("SDXL's second, ViT-bigG", "sdxl", "text_encoder_2", (2, 12, 31), penultimate=True, slots=1),
}


def whole_config(shape: Shape, rows: int, small: bool = False) -> TextConfig:
    """The published config with `rows` tokens. small: a narrow one of three layers."""
    raw = read_configs(shape.model, small)[shape.part]
    # Both kinds of text encoder are built as one that gives states only.
    fields = {"vocab_size": rows, "bos_token_id": rows - 2, "eos_token_id": rows - 1, "pad_token_id": rows - 1}
    return TextConfig.from_json({**raw, **fields, "architectures": ["CLIPTextModel"]}, shape.title)


def cut_config(config: TextConfig, shape: Shape, layers: int) -> TextConfig:
    """The first `layers` layers of a text encoder, and one more that is not read where the states are penultimate."""
    return replace(config, num_hidden_layers=layers + shape.penultimate)


def depths(shape: Shape, small: bool = False) -> tuple[int, ...]:
    """How many layers are measured, few first."""
    return (1, 2) if small else shape.layers
