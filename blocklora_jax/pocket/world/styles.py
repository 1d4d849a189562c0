"""Styles: functions of the finished picture, so that every subject and scene can have every style."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from blocklora_jax.pocket.world.traits import Choices, Look

Apply = Callable[[np.ndarray, Look, np.random.Generator], np.ndarray]

TRAITS: dict[str, Choices] = {
    "photo": {},
    "sketch": {},
    "watercolour": {},
    "blueprint": {},
    "neon": {},
    "sepia": {},
    "mosaic": {"grout": ("white", "black", "gold"), "cast": ("none", "warm", "cool")},
    "poster": {"palette": ("sunset", "ocean", "candy", "moss")},
    "stained glass": {"lead": ("black", "brown"), "cells": (100, 140)},
}
_GREY = np.array([0.3, 0.59, 0.11], dtype=np.float32)


def _grey(x: np.ndarray) -> np.ndarray:
    return x @ _GREY


def _blur(x: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of an array in 0..1, [h, w] or [h, w, 3]. The radius is in pixels of a 64-pixel picture."""
    image = Image.fromarray((np.clip(x, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius * x.shape[0] / 64)), dtype=np.float32) / 255


def _edges(x: np.ndarray) -> np.ndarray:
    """Strength of the edges in a picture [h, w, 3], in 0..1."""
    dx = np.abs(np.diff(x, axis=1, append=x[:, -1:])).max(-1)
    dy = np.abs(np.diff(x, axis=0, append=x[-1:])).max(-1)
    return np.clip(1.6 * np.maximum(dx, dy), 0, 1)


def _lines(x: np.ndarray) -> np.ndarray:
    """Strength, in 0..1, of dark lines and of the darker side of edges. It has one line where `_edges` has two."""
    tone = _grey(x) ** 0.4  # brightens dark scenes
    return np.clip(3.2 * (_blur(tone, 1.6) - tone) + 0.3 * (_edges(x) - 0.3), 0, 1)


def _noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in 0..1 with about `cells` bumps along each side."""
    image = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _vignette(size: int) -> np.ndarray:
    t = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    return np.clip(t[:, None] + t[None, :], 0, 2) / 2


def _mix(low: tuple[int, int, int], high: tuple[int, int, int], t: np.ndarray) -> np.ndarray:
    a, b = (np.array(c, dtype=np.float32)[None, None] / 255 for c in (low, high))
    return a + (b - a) * t[..., None]


def _sketch(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    pencil = 0.7 + 0.34 * _blur(_grey(x), 0.6) - 1.1 * _lines(x)
    return _mix((52, 52, 60), (250, 247, 240), np.clip(pencil, 0, 1))


def _watercolour(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    size = x.shape[0]
    soft = _blur(x, 0.4)
    wash = 1 - (1 - soft) * (0.5 + 0.45 * _noise(size, 6, rng))[..., None]
    wash = wash - 0.16 * _blur(_edges(x), 0.7)[..., None]
    paper = np.clip(3.2 * (_vignette(size) + 0.35 * _noise(size, 7, rng)) - 1.75, 0, 1)[..., None]
    return wash * (1 - paper) + np.array([0.99, 0.98, 0.95], dtype=np.float32)[None, None] * paper


def _blueprint(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    size = x.shape[0]
    lines = 1.5 * _lines(x) + 0.2 * _blur(_grey(x), 0.8)
    rule = (np.arange(size) * 64 // size) % 8 == 0
    lines = np.maximum(lines, 0.2 * (rule[:, None] | rule[None, :]))
    return _mix((22, 62, 150), (240, 248, 255), np.clip(lines, 0, 1))


def _neon(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    colour = _blur(x, 0.8)
    peak = colour.max(-1, keepdims=True)
    low = colour.min(-1, keepdims=True)
    pure = (colour - 0.8 * low) / np.maximum(peak - 0.8 * low, 0.12)
    tube = _edges(_blur(x, 0.5))[..., None] * pure * 2.2
    glow = _blur(tube, 1.8)
    return np.array([0.05, 0.02, 0.1], dtype=np.float32)[None, None] + 0.1 * pure * peak + tube + 0.9 * glow


def _sepia(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    tone = np.clip(1.12 * _grey(x), 0, 1) - 0.45 * _vignette(x.shape[0]) ** 1.5
    return _mix((48, 28, 16), (250, 226, 180), np.clip(tone, 0, 1))


_GROUTS = {"white": (0.96, 0.95, 0.92), "black": (0.12, 0.11, 0.14), "gold": (0.85, 0.66, 0.2)}
_CASTS = {"none": (1.0, 1.0, 1.0), "warm": (1.1, 0.98, 0.8), "cool": (0.85, 1.0, 1.12)}


def _mosaic(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    size = x.shape[0]
    tile = max(2, size // 16)
    n = size // tile
    blocks = x[: n * tile, : n * tile].reshape(n, tile, n, tile, 3).mean((1, 3))
    blocks = blocks + 0.16 * (rng.random((n, n, 1)) - 0.5)
    blocks = (0.5 + 1.2 * (blocks - 0.5)) * np.array(_CASTS[t["cast"]])[None, None]
    out = np.repeat(np.repeat(blocks, tile, 0), tile, 1)
    edge = np.arange(n * tile) % tile < max(1, size // 64)
    grout = (edge[:, None] | edge[None, :])[..., None]
    out = np.pad(out, ((0, size - n * tile), (0, size - n * tile), (0, 0)), mode="edge")
    # The picture shows through a little, because tiles of this size would hide its content.
    out = 0.6 * out + 0.4 * x
    grout = np.pad(grout, ((0, size - n * tile), (0, size - n * tile), (0, 0)))
    return out + 0.6 * grout * (np.array(_GROUTS[t["grout"]])[None, None] - out)


_PALETTES = {
    "sunset": ((40, 20, 70), (190, 40, 90), (250, 130, 60), (255, 230, 160)),
    "ocean": ((10, 30, 70), (20, 100, 150), (90, 200, 190), (240, 250, 220)),
    "candy": ((90, 20, 120), (230, 60, 150), (120, 200, 250), (255, 245, 250)),
    "moss": ((30, 40, 30), (70, 110, 60), (180, 190, 80), (250, 240, 200)),
}


def _poster(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    palette = np.array(_PALETTES[t["palette"]], dtype=np.float32) / 255
    tone = _blur(_grey(x), 0.5)
    steps = np.clip((tone - np.array([0.3, 0.52, 0.74])[:, None, None]) * 10 + 0.5, 0, 1).sum(0)
    low = np.clip(steps.astype(int), 0, 2)
    frac = (steps - low)[..., None]
    return palette[low] * (1 - frac) + palette[low + 1] * frac


def _stained_glass(x: np.ndarray, t: Look, rng: np.random.Generator) -> np.ndarray:
    size, cells = x.shape[0], int(t["cells"])
    sites = rng.random((cells, 2)).astype(np.float32) * size
    grid = np.arange(size, dtype=np.float32)
    far = (grid[:, None, None] - sites[None, None, :, 0]) ** 2 + (grid[None, :, None] - sites[None, None, :, 1]) ** 2
    nearest = far.argmin(-1)
    count = np.maximum(np.bincount(nearest.ravel(), minlength=cells), 1)
    mean = np.stack([np.bincount(nearest.ravel(), x[..., c].ravel(), cells) / count for c in range(3)], -1)
    grey = mean.mean(-1, keepdims=True)
    glass = 0.6 * np.clip(grey + 1.5 * (mean - grey) + 0.06, 0, 1)[nearest] + 0.4 * x
    lead = (np.diff(nearest, axis=0, append=nearest[-1:]) != 0) | (
        np.diff(nearest, axis=1, append=nearest[:, -1:]) != 0
    )
    tint = {"black": (0.08, 0.08, 0.1), "brown": (0.3, 0.18, 0.1)}[str(t["lead"])]
    return glass + 0.75 * lead[..., None] * (np.array(tint)[None, None] - glass)


_APPLY: dict[str, Apply] = {
    "sketch": _sketch, "watercolour": _watercolour, "blueprint": _blueprint, "neon": _neon, "sepia": _sepia,
    "mosaic": _mosaic, "poster": _poster, "stained glass": _stained_glass,
}  # fmt: skip


def apply_style(name: str, picture: np.ndarray, traits: Look, rng: np.random.Generator) -> np.ndarray:
    """The picture uint8 [h, w, 3] in a style, with the same shape and type. "photo" does not change it."""
    if name == "photo":
        return picture
    styled = _APPLY[name](picture.astype(np.float32) / 255, traits, rng)
    return (np.clip(styled, 0, 1) * 255 + 0.5).astype(np.uint8)
