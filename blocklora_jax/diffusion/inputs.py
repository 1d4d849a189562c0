"""What a call for pictures leaves open, filled in for each picture; and checks of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from blocklora_jax.checks.bounds import check_number
from blocklora_jax.checks.texts import check_texts
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.regions import Region
from blocklora_jax.diffusion.text import make_size_ids
from blocklora_jax.errors import UserError


def first_latents(models: Models, indices: Sequence[int], seed: int, height: int, width: int, latents: Any) -> Any:
    """The initial noise, [b, h, w, c]: `latents`, checked, or drawn from the seed. height, width: in pixels."""
    check_number("seed", seed)
    if latents is None:
        return draw_latents(models, jax.random.key(seed), indices, height, width)
    channels = models.vae.config.latent_channels
    count, shape = len(indices), list(getattr(latents, "shape", ()))
    if len(shape) != 4 or (shape[0], shape[3]) != (count, channels) or 0 in shape:
        raise UserError(f"latents {shape} must be [b, h, w, {channels}], one for each of {count} prompts")
    return latents


def check_indices(indices: Sequence[int] | None, count: int) -> list[int]:
    """`indices`, or 0, 1, 2, …"""
    places = list(range(count) if indices is None else indices)
    if len(places) != count:
        raise UserError(f"{len(places)} indices for {count} prompts: give one for each")
    for place in places:
        check_number("index", place)
    return places


def each_negative(prompts: Sequence[str] | None, count: int, zeros: bool) -> list[str] | list[None]:
    """`count` negative prompts; None for text states of zeros. zeros: whether these stand for no prompts."""
    if prompts is None and zeros:
        return [None] * count
    negatives = list(prompts or [""])
    return negatives * (count // len(negatives))


def each_size(
    models: Models,
    latents: Any,
    original_size: tuple[int, int] | None,
    crops_coords_top_left: tuple[int, int],
    target_size: tuple[int, int] | None,
) -> Any:
    """SDXL's size ids of each picture; None for other models."""
    if models.text_encoder_2 is None:
        return [None] * len(latents)
    for side in (*(original_size or ()), *crops_coords_top_left, *(target_size or ())):
        check_number("pixels", side)
    height, width = (side * models.vae.config.downscale for side in latents.shape[1:3])
    return make_size_ids(height, width, len(latents), original_size, crops_coords_top_left, target_size)


def check_prompts(
    prompts: Sequence[str], negative_prompts: Sequence[str] | None, regions: Sequence[Sequence[Region]] | None
) -> None:
    """Raises UserError for prompts that are no texts, and for other numbers of negative prompts or regions."""
    for name, value in (("prompts", prompts), ("negative_prompts", negative_prompts)):
        if isinstance(value, str):
            raise UserError(f"{name} is a list of prompts, not one string: write [prompt]")
        check_texts(value or (), name)
    if not prompts:
        raise UserError("there is no prompt to make a picture of")
    count = len(negative_prompts or [""])
    if count not in (1, len(prompts)):
        raise UserError(f"{count} negative prompts for {len(prompts)} prompts: give one for each, or one for all")
    if regions is not None and len(regions) != len(prompts):
        raise UserError(f"regions of {len(regions)} pictures for {len(prompts)} prompts: give a list for each prompt")
