"""Prompts for parts of a picture, so that several concepts can be in one picture without mixing.

In cross-attention, within a region, the output for the region's prompt replaces the output for the picture's prompt.
Self-attention still reads the whole picture.

Source: regionally controllable sampling of Mix-of-Show (arXiv 2305.18292).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.calls import by_order, find_calls, only_calling
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.text import encode_prompt
from blocklora_jax.errors import UserError
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.attention import Attention
from blocklora_jax.prompts.chunks import PromptIds, encode_prompts
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """A part of a picture with its own prompt.

    prompt: what is shown there. box: left, top, right and bottom edge, as shares of the picture's width and height.

    Raises: UserError for a box that is empty or not within the picture.

    >>> Region("a photo of <ada> woman", (0.0, 0.0, 0.5, 1.0))  # the left half
    Region(prompt='a photo of <ada> woman', box=(0.0, 0.0, 0.5, 1.0))
    """

    prompt: str
    box: Box

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UserError(
                f"region {self.prompt!r}: box {self.box} must be (left, top, right, bottom) within 0..1, "
                "with left < right and top < bottom"
            )


class RegionIds(NamedTuple):
    """Regions of a batch, equally many for each picture. A box of zeros stands for no region.

    ids: token ids of the prompts: first the first region of each picture, then the second of each, and so on. They have
        as many chunks as the pictures' own prompts.
    boxes: see `Region`.
    """

    ids: Int[Array | np.ndarray, "rb *e t"] | PromptIds
    boxes: Float[Array | np.ndarray, "r b 4"]


class RegionText(NamedTuple):
    """`RegionIds` with text states in place of token ids."""

    states: Float[Array, "r b t d"]
    boxes: Float[Array | np.ndarray, "r b 4"]


def side_by_side(prompt: str, adapters: Sequence[Adapter]) -> list[Region]:
    """Regions that separate the concepts of a prompt: people and objects side by side, and a style over all of them.

    People and objects get vertical strips of equal width, from left to right. A style gets the whole picture; its
    output and that of the strips have equal weight. A region's prompt is the whole prompt, with class nouns in place of
    the other people, objects and styles. So the model knows that there are several, but reads only one concept's token
    in each region. Scenes are read in all regions.

    Empty if there is nothing to separate: the prompt calls fewer than two concepts, or no person and no object.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> for region in side_by_side("a photo of <ada> man and <bob> man on a beach", adapters):
    ...     print(region.prompt, region.box)
    a photo of <ada> man and a man on a beach (0.0, 0.0, 0.5, 1.0)
    a photo of a man and <bob> man on a beach (0.5, 0.0, 1.0, 1.0)
    """
    called = by_order([c for c in find_calls(prompt, adapters) if c.adapter.info.kind != "scene"])
    count = sum(adapter.info.kind != "style" for adapter in called)
    if len(called) < 2 or not count:
        return []
    regions, strips = [], itertools.pairwise(np.linspace(0, 1, count + 1).tolist())
    for adapter in called:
        left, right = (0.0, 1.0) if adapter.info.kind == "style" else next(strips)
        words = only_calling(adapter, prompt, adapters, also=("scene",))
        regions.append(Region(words, (left, 0.0, right, 1.0)))
    return regions


def region_ids(
    tokenizer: Tokenizer | TokenizerPair,
    prompts: Sequence[str],
    regions: Sequence[Sequence[Region]],
    tokens: Mapping[str, int],
    chunks: int | None = None,
) -> RegionIds | None:
    """The regions of each prompt's picture as arrays. None if no prompt has regions.

    chunks: of the pictures' prompts, see `encode_prompts`. Prompts with fewer regions than others get empty ones.

    Raises: UserError if there is not one list for each prompt.
    """
    if len(regions) != len(prompts):
        raise UserError(f"regions of {len(regions)} pictures for {len(prompts)} prompts: give a list for each prompt")
    texts, boxes = [], np.zeros((max(map(len, regions)), len(prompts), 4), np.float32)
    for place, row in np.ndindex(boxes.shape[:2]):
        of_picture = regions[row]
        texts.append(of_picture[place].prompt if place < len(of_picture) else prompts[row])
        if place < len(of_picture):
            boxes[place, row] = of_picture[place].box
    return RegionIds(encode_prompts(tokenizer, texts, tokens, chunks), boxes) if texts else None


def encode_regions(models: Models, params: Mapping[str, Any], regions: RegionIds) -> RegionText:
    """The text states of every region's prompt. The pooled text for SDXL is that of the whole picture's prompt."""
    states = encode_prompt(models, params, regions.ids).states
    return RegionText(states.reshape(*regions.boxes.shape[:2], *states.shape[1:]), regions.boxes)


def apply_regional(unet: nn.Module, params: Mapping[str, Any], text: RegionText, latents: Array, *inputs: Any):
    """The U-Net's output for `latents` and its other inputs. `text` has the regions of the last b rows of the batch."""
    regions, rows = text.states.shape[:2]

    def intercept(next_fun, args, kwargs, context):
        if not isinstance(context.module, Attention) or context.method_name != "__call__" or len(args) < 2:
            return next_fun(*args, **kwargs)
        x, states = args
        # One call for all prompts: the picture's own, then those of the regions.
        queries = jnp.concatenate([x, *[x[-rows:]] * regions])
        read = jnp.concatenate([states, *text.states.astype(states.dtype)])
        outputs = next_fun(queries, read, **kwargs)
        whole = outputs[: len(x)]
        regional = outputs[len(x) :].reshape(regions, rows, *x.shape[1:])
        masks = cover(text.boxes, *_feature_size(latents.shape, x.shape[1])).astype(x.dtype)[..., None]
        share = masks.sum(0)
        mixed = (masks * regional).sum(0) / jnp.maximum(share, 1) + jnp.where(share > 0, 0, whole[-rows:])
        return jnp.concatenate([whole[:-rows], mixed])

    # Entered inside the traced function, because it is not part of jit's cache key.
    with nn.intercept_methods(intercept):
        return apply_model(unet, params, latents, *inputs)


def cover(boxes: Float[Array | np.ndarray, "r b 4"], height: int, width: int) -> Float[Array, "r b t"]:
    """1 where a pixel's centre is in the box, else 0. t = height * width pixels, row by row."""
    x, y = ((jnp.arange(count) + 0.5) / count for count in (width, height))

    def one(box: Float[Array, "4"]) -> Array:
        left, top, right, bottom = box
        return jnp.outer((y >= top) & (y < bottom), (x >= left) & (x < right)).ravel()

    return jax.vmap(jax.vmap(one))(jnp.asarray(boxes)).astype(jnp.float32)


def _feature_size(shape: Sequence[int], pixels: int) -> tuple[int, int]:
    """Height and width of a feature map with `pixels` pixels.

    shape: of the latents, [b, h, w, c]. The sides of feature maps are halves, quarters, …, of h and w, rounded up.
    """
    _, height, width, _ = shape
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    assert height * width == pixels, (shape, pixels)
    return height, width
