"""The text encoders of Stable Diffusion 1.5, 2.x and SDXL by shape, whole or cut off after some layers."""

from __future__ import annotations

from typing import NamedTuple

from blocklora_jax.models.config import TextConfig
from blocklora_jax.testing.random_folder import read_configs


class Shape(NamedTuple):
    """One text encoder.

    model, part: where its published config is (see `testing.random_folder`). layers: how many cross-attention's states
    have passed; the last number is that of the model. has_final_norm: SDXL reads the states before the last layer,
    without a norm. slots: how many codewords are made by default; deep text encoders take long. width: if not the
    published one.
    """

    title: str
    model: str
    part: str
    layers: tuple[int, ...]
    has_final_norm: bool = True
    slots: int = 4
    width: int | None = None


SHAPES = {
    # As deep as the deepest, and fast to measure.
    "narrow": Shape("256 wide", "sdxl", "text_encoder_2", (2, 6, 12, 31), has_final_norm=False, slots=2, width=256),
    "sd15": Shape("SD 1.x, ViT-L/14", "sd15", "text_encoder", (2, 6, 12), slots=2),
    "sd2": Shape("SD 2.x, OpenCLIP ViT-H", "sd21", "text_encoder", (23,), slots=1),
    "sdxl2": Shape("SDXL's second, ViT-bigG", "sdxl", "text_encoder_2", (31,), has_final_norm=False, slots=1),
}


def whole_config(shape: Shape, rows: int, small: bool = False) -> TextConfig:
    """The published config with `rows` tokens. small: a narrow one of three layers."""
    raw = read_configs(shape.model, small)[shape.part]
    if shape.width and not small:
        raw |= {
            "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width,
            "num_attention_heads": shape.width // 64,
        }
    # Both kinds of text encoder are built as one that gives states only.
    fields = {"vocab_size": rows, "bos_token_id": rows - 2, "eos_token_id": rows - 1, "pad_token_id": rows - 1}
    return TextConfig.from_json({**raw, **fields, "architectures": ["CLIPTextModel"]}, shape.title)


def depths(shape: Shape, small: bool = False) -> tuple[int, ...]:
    """How many layers are measured, few first."""
    return (2,) if small else shape.layers
