"""A prompt for each part of a picture, so that several concepts can stand beside each other without mixing.

In cross-attention, within a region, the output for the region's prompt replaces the output for the picture's prompt.
Self-attention still sees the whole picture. Source: regionally controllable sampling of Mix-of-Show (arXiv 2305.18292).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.attention import Attention
from blocklora_jax.prompts.tokenizer import Tokenizer, token_pattern
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair

_DETERMINERS = ("a", "an", "the", "my", "your", "his", "her", "its", "our", "their", "this", "that")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """prompt: what is to be there. box: left, top, right and bottom edge, in shares of the picture's width and height.

    Raises: UserError for a box that is empty or not within the picture.
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
    """Regions of a batch, as many for each picture; a box of zeros is no region.

    ids: of the prompts, all pictures' first regions, then all second ones, and so on. boxes: see `Region`.
    """

    ids: Int[Array | np.ndarray, "rb *e t"]
    boxes: Float[Array | np.ndarray, "r b 4"]


class RegionText(NamedTuple):
    """`RegionIds` with what the prompts say."""

    states: Float[Array, "r b t d"]
    boxes: Float[Array | np.ndarray, "r b 4"]


def side_by_side(prompt: str, adapters: Sequence[Adapter]) -> list[Region]:
    """Regions that keep the concepts of a prompt apart: people and objects side by side, a style over all of them.

    People and objects get upright strips of equal width, from left to right. A style gets the whole picture; its output
    and that of the strips have equal weight. A region's prompt is the whole prompt, in which nouns replace the names of
    the other people, objects and styles. So the model still knows that there are several, but reads one concept's token
    in each region. Scenes are read in all regions.

    Empty if there is nothing to keep apart: fewer than two concepts are called, or no person and no object.
    """
    called = []
    for adapter in adapters:
        info, names = adapter.info, _names(adapter)
        if names and info.kind != "scene" and (found := re.search(names, prompt)):
            called.append((found.start(), names, info.class_noun, info.kind == "style"))
    called.sort()
    count = sum(not is_style for *_, is_style in called)
    if len(called) < 2 or not count:
        return []
    regions, strips = [], itertools.pairwise(np.linspace(0, 1, count + 1).tolist())
    for _, kept, _, is_style in called:
        words = prompt
        for _, names, noun, _ in called:
            if names != kept:
                words = _call_by_noun(words, names, noun)
        left, right = (0.0, 1.0) if is_style else next(strips)
        regions.append(Region(words, (left, 0.0, right, 1.0)))
    return regions


def _names(adapter: Adapter) -> str:
    """A pattern of what calls the concept, in any case: its trigger, else a token alone; "" if nothing does."""
    trigger = [f"(?i:{re.escape(adapter.info.trigger)})"] if adapter.info.trigger else []
    return "|".join([*trigger, *([token_pattern(adapter.tokens)] if adapter.tokens else [])])


def _call_by_noun(prompt: str, names: str, noun: str) -> str:
    """`prompt` with `noun` in place of the pattern `names`, and with an article where there is none.

    If the noun is empty, the names are removed.
    """
    article = f"{'an' if noun[0] in 'aeiou' else 'a'} " if noun else ""

    def call(found: re.Match[str]) -> str:
        before = prompt[: found.start()].lower().split()
        return noun if before and before[-1] in _DETERMINERS else article + noun

    return re.sub(names, call, prompt)


def region_ids(
    tokenizer: Tokenizer | TokenizerPair,
    prompts: Sequence[str],
    regions: Sequence[Sequence[Region]],
    tokens: Mapping[str, int],
) -> RegionIds | None:
    """The regions of each prompt's picture as arrays. Prompts with fewer get empty ones. None if no prompt has any.

    Raises: UserError if there is not a list for each prompt.
    """
    if len(regions) != len(prompts):
        raise UserError(f"regions of {len(regions)} pictures for {len(prompts)} prompts: give a list for each prompt")
    texts, boxes = [], np.zeros((max(map(len, regions)), len(prompts), 4), np.float32)
    for place, row in np.ndindex(boxes.shape[:2]):
        of_picture = regions[row]
        texts.append(of_picture[place].prompt if place < len(of_picture) else prompts[row])
        if place < len(of_picture):
            boxes[place, row] = of_picture[place].box
    return RegionIds(tokenizer.encode(texts, tokens), boxes) if texts else None


def encode_regions(models: Models, params: Mapping[str, Any], regions: RegionIds) -> RegionText:
    """What every region's prompt says to the U-Net; SDXL's pooled text is the whole picture's."""
    states = encode_text(models, params, regions.ids).states
    return RegionText(states.reshape(*regions.boxes.shape[:2], *states.shape[1:]), regions.boxes)


def apply_regional(unet: nn.Module, params: Mapping[str, Any], text: RegionText, latents: Array, *inputs: Any):
    """The U-Net's output for `latents` and its other inputs. The last b rows of the batch are those of `text`."""
    regions, rows = text.states.shape[:2]

    def intercept(next_fun, args, kwargs, context):
        if not isinstance(context.module, Attention) or context.method_name != "__call__" or len(args) < 2:
            return next_fun(*args, **kwargs)
        x, states = args
        # One call for all: the picture's own prompt, then every region's.
        queries = jnp.concatenate([x, *[x[-rows:]] * regions])
        read = jnp.concatenate([states, *text.states.astype(states.dtype)])
        answers = next_fun(queries, read, **kwargs)
        whole = answers[: len(x)]
        there = answers[len(x) :].reshape(regions, rows, *x.shape[1:])
        masks = cover(text.boxes, *_feature_size(latents.shape, x.shape[1])).astype(x.dtype)[..., None]
        share = masks.sum(0)
        mixed = (masks * there).sum(0) / jnp.maximum(share, 1) + jnp.where(share > 0, 0, whole[-rows:])
        return jnp.concatenate([whole[:-rows], mixed])

    # Entered where the function is traced, for jit's cache does not know it.
    with nn.intercept_methods(intercept):
        return apply_model(unet, params, latents, *inputs)


def cover(boxes: Float[Array | np.ndarray, "r b 4"], height: int, width: int) -> Float[Array, "r b t"]:
    """1 where the centre of a pixel is in the box; t = height * width, row by row."""
    x, y = ((jnp.arange(count) + 0.5) / count for count in (width, height))

    def one(box: Float[Array, "4"]) -> Array:
        left, top, right, bottom = box
        return jnp.outer((y >= top) & (y < bottom), (x >= left) & (x < right)).ravel()

    return jax.vmap(jax.vmap(one))(jnp.asarray(boxes)).astype(jnp.float32)


def _feature_size(shape: Sequence[int], pixels: int) -> tuple[int, int]:
    """Height and width of a feature map of so many pixels, halved (rounded up) some times from latents [b, h, w, c]."""
    _, height, width, _ = shape
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    assert height * width == pixels, (shape, pixels)
    return height, width
