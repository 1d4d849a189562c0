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

# How far what is cut out goes beyond the strip on each side, as a share of the picture; also the width of soft edges.
_MARGIN = 1 / 8
# To find a concept, noise is added to pictures, and a few steps are taken from there.
_FINDING = {"strength": 0.75, "steps": 4, "guidance_scale": 1.0}
# The largest differences are cut to this quantile: a bright spot far away must not decide.
_QUANTILE = 0.99

# Draws (prompts, image=…, rows=…, **settings). rows: which of the pictures each belongs to.
Draw = Callable[..., np.ndarray]
Box = tuple[int, int, int, int]


class CloseUp(NamedTuple):
    """One person or object of a picture. row: of the picture. prompt: calls it alone. without: calls nobody.

    strip: the left and right end of where it is looked for, as shares of the picture's width.
    """

    row: int
    prompt: str
    without: str
    strip: tuple[float, float]


def plan_close_ups(prompts: Sequence[str], adapters: Sequence[Adapter]) -> list[CloseUp]:
    """The people and objects of prompts that call two or more, in strips from left to right as in `side_by_side`."""
    return [
        close_up
        for row, prompt in enumerate(prompts)
        for close_up in _of_picture(row, prompt, find_calls(prompt, adapters))
    ]


def _of_picture(row: int, prompt: str, calls: Sequence[Call]) -> list[CloseUp]:
    of_subjects = [call for call in calls if call.adapter.info.kind not in ("scene", "style")]
    subjects = by_order(of_subjects)
    if len(subjects) < 2:
        return []
    start, end = _with_brackets(prompt, of_subjects[0].start, max(call.end for call in of_subjects))
    # Scenes and styles that are called between the subjects stay.
    others = [prompt[c.start : c.end] for c in calls if c not in of_subjects and start <= c.start and c.end <= end]
    found = []
    for place, subject in enumerate(subjects):
        own = next(prompt[call.start : call.end] for call in of_subjects if call.adapter is subject)
        alone, without = (prompt[:start] + ", ".join(words) + prompt[end:] for words in ([own, *others], others))
        found.append(CloseUp(row, alone, without, (place / len(subjects), (place + 1) / len(subjects))))
    return found


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
        draw([getattr(c, name) for c in close_ups], image=whole, rows=rows, **_FINDING).astype(np.float32)
        for name in ("prompt", "without")
    )
    size = pictures.shape[1:3]
    boxes = [
        find_box(difference, close_up.strip)
        for difference, close_up in zip(np.abs(with_it - without).mean(3), close_ups, strict=True)
    ]
    enlarged = np.stack([_resized(picture[_inside(box)], size) for picture, box in zip(whole, boxes, strict=True)])
    drawn = draw([close_up.prompt for close_up in close_ups], image=enlarged, rows=rows, strength=strength)
    result = pictures.astype(np.float32)
    for close_up, box, picture in zip(close_ups, boxes, drawn, strict=True):
        top, left, bottom, right = box
        mask = soft_mask(size, box, close_up.strip)[_inside(box)][..., None]
        part = result[close_up.row][_inside(box)]
        part += mask * (_resized(picture, (bottom - top, right - left)) - part)
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


def find_box(difference: Float[np.ndarray, "h w"], strip: tuple[float, float]) -> Box:
    """Top, left, bottom and right of a part in the shape of the whole picture, as wide as the strip and its margins.

    In height it is where the differences within the strip are.
    """
    height, width = difference.shape
    first, last = (round(side * width) for side in strip)
    share = min(1.0, strip[1] - strip[0] + _MARGIN)
    tall, wide = (round(side * share) for side in (height, width))
    left = min(max(round((first + last - wide) / 2), 0), width - wide)
    energy = np.minimum(difference, np.quantile(difference, _QUANTILE))[:, first:last].astype(np.float64) ** 2
    top = _window(energy.sum(1), tall)
    return top, left, top + tall, left + wide


def _window(weights: Float[np.ndarray, " n"], size: int) -> int:
    """The start of the window with the largest sum, moved until it lies in the middle of the weights in it."""
    start, last = int(np.convolve(weights, np.ones(size), "valid").argmax()), len(weights) - size
    for _ in range(size):
        inside = weights[start : start + size]
        middle = np.average(np.arange(size) + 0.5, weights=inside) if inside.any() else size / 2
        moved = min(max(round(start + middle - size / 2), 0), last)
        if moved == start:
            break
        start = moved
    return start


def soft_mask(size: tuple[int, int], box: Box, strip: tuple[float, float]) -> Float[np.ndarray, "h w"]:
    """1 within the box and the strip, falling to 0 at the box's edges and beyond the strip. Not at picture edges."""
    (height, width), (top, left, bottom, right) = size, box
    soft = _MARGIN * width
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    down = _ramp(y - top, soft, top > 0) * _ramp(bottom - y, soft, bottom < height)
    across = _ramp(x - left, soft, left > 0) * _ramp(right - x, soft, right < width)
    across = across * _ramp(x - strip[0] * width + soft, soft, True) * _ramp(strip[1] * width + soft - x, soft, True)
    return np.outer(down, across).astype(np.float32)


def _ramp(inside: np.ndarray, soft: float, applies: bool) -> np.ndarray:
    """From 0 at the edge to 1 at `soft` pixels inside it, or 0 and 1 only; 1 if there is no edge."""
    return np.clip(inside / soft, 0, 1) if applies else (inside > 0).astype(float)


def _inside(box: Box) -> tuple[slice, slice]:
    top, left, bottom, right = box
    return slice(top, bottom), slice(left, right)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))
