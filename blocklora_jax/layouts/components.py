"""The parts of a Stable Diffusion, by the names of diffusers' folders."""

from __future__ import annotations

from typing import Literal, get_args

# SDXL has both, the others the first.
TextEncoder = Literal["text_encoder", "text_encoder_2"]
# What adapters change, and what a model is known by; the autoencoder stays as it is.
Adapted = Literal["unet", "text_encoder", "text_encoder_2"]

TEXT_ENCODERS: tuple[str, ...] = get_args(TextEncoder)
ADAPTED: tuple[str, ...] = get_args(Adapted)
assert ("unet", *TEXT_ENCODERS) == ADAPTED
