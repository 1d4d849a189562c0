"""The parts of a Stable Diffusion, by the names of diffusers' folders."""

from __future__ import annotations

from typing import Literal, get_args

# SDXL has both; the other families have only the first.
TextEncoder = Literal["text_encoder", "text_encoder_2"]
# The components that adapters can change, and by which a base model is identified. The autoencoder is not one of them.
Adapted = Literal["unet", "text_encoder", "text_encoder_2"]

TEXT_ENCODERS: tuple[str, ...] = get_args(TextEncoder)
ADAPTED: tuple[str, ...] = get_args(Adapted)
assert ("unet", *TEXT_ENCODERS) == ADAPTED
