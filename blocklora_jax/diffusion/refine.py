"""Draws the people and objects of pictures again, each by itself and enlarged, and puts them back.

Where several share a picture, each is small, and all are drawn at once. So each is found, cut out, enlarged to the size
of the whole picture, drawn from there with a prompt that calls no other, and put back with soft edges.

Source: a concept is where pictures with and without it, from the same noise, differ, as in DiffEdit (arXiv 2210.11427).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.calls import Call, by_order, find_calls
from blocklora_jax.diffusion.regions import Box, Region

# How far what is cut out goes beyond the region, as a share of the picture; also the width of soft edges.
_MARGIN = 1 / 8
# To find a concept, noise of a third of the schedule is added to pictures, and one step is taken from there; several
# times, with other noise. Other samplers and spacings would add another amount of noise.
_FINDING = {"strength": 0.5, "steps": 2, "guidance_scale": 1.0, "sampler": "dpmpp_2m", "spacing": "leading"}
_NOISES = 4
# The largest differences are cut to this quantile: a bright spot far away must not decide.
_QUANTILE = 0.99
# Kinds of concepts that a whole picture has.
_SHARED = ("scene", "style")

# Draws (prompts, image=…, rows=…, **settings). rows: which of the pictures each belongs to. noise: which of several,
# 0 if not given.
Draw = Callable[..., np.ndarray]
# The start and the end of a part of the picture's height, and of its width, in pixels.
Part = tuple[slice, slice]


class CloseUp(NamedTuple):
    """One person or object of a picture.

    row: of the picture. prompt: calls it alone. without: calls nobody. box: where it is looked for, see `Region`.
    """

    row: int
    prompt: str
    without: str
    box: Box


def plan_close_ups(
    prompts: Sequence[str], regions: Sequence[Sequence[Region]], adapters: Sequence[Adapter]
) -> list[CloseUp]:
    """A close-up for each region that calls one person or object, and is not about as large as the picture."""
    found = []
    for row, (prompt, of_picture) in enumerate(zip(prompts, regions, strict=True)):
        for region in of_picture:
            subjects = by_order(_of_subjects(find_calls(region.prompt, adapters)))
            if len(subjects) == 1 and _share(region.box) < 1:
                alone, without = _alone(subjects[0], prompt, region.prompt, adapters)
                found.append(CloseUp(row, alone, without, region.box))
    return found


def _of_subjects(calls: Sequence[Call]) -> list[Call]:
    return [call for call in calls if call.adapter.info.kind not in _SHARED]


def _alone(subject: Adapter, prompt: str, regional: str, adapters: Sequence[Adapter]) -> tuple[str, str]:
    """The prompt with `subject` in place of all words from the first to the last person or object, and with nobody.

    Where the prompt does not call it, the regional one is taken.
    """
    calls = find_calls(prompt, adapters)
    own = [prompt[call.start : call.end] for call in calls if call.adapter is subject]
    if not own:
        return _alone(subject, regional, regional, adapters)
    of_subjects = _of_subjects(calls)
    start, end = _with_brackets(prompt, of_subjects[0].start, max(call.end for call in of_subjects))
    # Scenes and styles that are called between the subjects stay.
    shared = [call for call in calls if call.adapter.info.kind in _SHARED]
    others = [prompt[c.start : c.end] for c in shared if start <= c.start and c.end <= end]
    alone, without = (prompt[:start] + ", ".join(words) + prompt[end:] for words in ([own[0], *others], others))
    return alone, without


def _with_brackets(prompt: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of a part of a prompt, wider if it had one bracket of a pair only: "(a:1.2) and b" from "a" on."""
    depths = np.cumsum([(mark in "([") - (mark in ")]") for mark in prompt[start:end]])
    if not (depths.min() < 0 or depths[-1]):
        return start, end
    weight = re.match(r"(:[\d.]+)?[)\]]*", prompt[end:])
    return len(prompt[:start].rstrip("([")), end + (weight.end() if weight else 0)


def refine(
    draw: Draw, pictures: UInt8[np.ndarray, "b h w 3"], close_ups: Sequence[CloseUp], strength: float
) -> UInt8[np.ndarray, "b h w 3"]:
    """The pictures with each of the close-ups drawn anew.

    draw: as `generate` with the picture's settings, see `in_chunks`. strength: how far a close-up may change.
    """
    if not close_ups:
        return pictures
    rows = [close_up.row for close_up in close_ups]
    whole = pictures[rows]
    with_it, without = (
        sum(draw(words, image=whole, rows=rows, noise=k, **_FINDING).astype(np.float32) for k in range(_NOISES))
        for words in ([c.prompt for c in close_ups], [c.without for c in close_ups])
    )
    size = pictures.shape[1:3]
    parts = [
        find_part(difference, close_up.box)
        for difference, close_up in zip(np.abs(with_it - without).mean(3), close_ups, strict=True)
    ]
    enlarged = np.stack([_resized(picture[part], size) for picture, part in zip(whole, parts, strict=True)])
    drawn = draw([close_up.prompt for close_up in close_ups], image=enlarged, rows=rows, strength=strength)
    result = pictures.astype(np.float32)
    for close_up, part, picture in zip(close_ups, parts, drawn, strict=True):
        shown = result[close_up.row][part]
        shown += soft_mask(size, part, close_up.box)[part][..., None] * (_resized(picture, shown.shape[:2]) - shown)
    return result.round().astype(np.uint8)


def in_chunks(draw: Draw, size: int) -> Draw:
    """`draw`, called for `size` rows at a time, the last of them repeated, so that one size is compiled."""

    def draw_all(prompts: Sequence[str], *, image: np.ndarray, rows: Sequence[int], **settings: Any) -> np.ndarray:
        places = np.arange(-(-len(rows) // size) * size).clip(max=len(rows) - 1).reshape(-1, size)
        drawn = [
            draw([prompts[i] for i in part], image=image[part], rows=[rows[i] for i in part], **settings)
            for part in places
        ]
        return np.concatenate(drawn)[: len(rows)]

    return draw_all


def find_part(difference: Float[np.ndarray, "h w"], box: Box) -> Part:
    """The part of the picture, in its shape and a margin larger than the box, where the differences in the box are."""
    left, top, right, bottom = box
    inside = [_pixels(ends, side) for ends, side in zip(((top, bottom), (left, right)), difference.shape, strict=True)]
    energy = np.minimum(difference, np.quantile(difference, _QUANTILE))[tuple(inside)].astype(np.float64) ** 2
    rows, columns = (
        _window(energy.sum(1 - axis), inside[axis].start, round(side * _share(box)), side)
        for axis, side in enumerate(difference.shape)
    )
    return rows, columns


def soft_mask(size: tuple[int, int], part: Part, box: Box) -> Float[np.ndarray, "h w"]:
    """1 in the part within the box, falling to 0 at the part's edges and beyond the box. Not at picture edges."""
    left, top, right, bottom = box
    soft = _MARGIN * min(size)
    down, across = (
        _ramp(np.arange(side) + 0.5, side, soft, of_part, ends)
        for side, of_part, ends in zip(size, part, ((top, bottom), (left, right)), strict=True)
    )
    return np.outer(down, across).astype(np.float32)


def _share(box: Box) -> float:
    """The sides of the part that is cut out, as a share of the picture's."""
    left, top, right, bottom = box
    return min(1.0, min(right - left, bottom - top) + _MARGIN)


def _pixels(ends: tuple[float, float], side: int) -> slice:
    first = min(round(ends[0] * side), side - 1)
    return slice(first, max(round(ends[1] * side), first + 1))


def _window(weights: Float[np.ndarray, " n"], first: int, size: int, side: int) -> slice:
    """`size` pixels of a side, around the weights, which are those of the pixels from `first` on.

    That is around their middle if there are no more of them. Else it is the window with the largest sum, moved until
    the weights in it are in its middle.
    """
    start = (len(weights) - size) / 2
    if size < len(weights):
        start = int(np.convolve(weights, np.ones(size), "valid").argmax())
        for _ in range(size):
            inside = weights[start : start + size]
            middle = np.average(np.arange(size) + 0.5, weights=inside) if inside.any() else size / 2
            moved = min(max(round(start + middle - size / 2), 0), len(weights) - size)
            if moved == start:
                break
            start = moved
    start = min(max(round(first + start), 0), side - size)
    return slice(start, start + size)


def _ramp(
    places: np.ndarray, side: int, soft: float, of_part: slice, ends: tuple[float, float]
) -> Float[np.ndarray, " n"]:
    """For one axis: 1 inside, falling over `soft` pixels to the part's edges, and from the box's edges outwards."""
    edges = [(places - of_part.start, of_part.start > 0), (of_part.stop - places, of_part.stop < side)]
    ramps = [np.clip(inside / soft, 0, 1) if is_soft else (inside > 0) for inside, is_soft in edges]
    from_box = [places - ends[0] * side + soft, ends[1] * side + soft - places]
    return np.prod([*ramps, *(np.clip(inside / soft, 0, 1) for inside in from_box)], axis=0)


def _resized(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
