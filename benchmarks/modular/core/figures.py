"""What a person sees: curves over the number of merged concepts, crosstalk as heat maps, and pictures side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.core.measures import Subject
from benchmarks.modular.core.methods import METHODS
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.heat_map import heat_map
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.crosstalk import ALL, measure_crosstalk


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Identity kept over the number of merged concepts, one line a method, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["method"] for row in rows if row["n"]):
        points = sorted((row["n"], *row["identity_retention"]) for row in rows if row["method"] == name and row["n"])
        n, kept, low, high = map(np.array, zip(*points, strict=True))
        width = 3 if name == "wide" else 1.3
        (line,) = axes.plot(n, kept, marker="o", markersize=3, label=METHODS[name].label, linewidth=width)
        axes.fill_between(n, low, high, alpha=0.08, color=line.get_color())
    axes.set(xlabel="concepts merged", ylabel="identity kept (merged / alone)", ylim=(0, None))
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(path, buffer.getvalue())


def draw_crosstalk(sd: StableDiffusion, adapters: Mapping[str, Sequence[Adapter]], folder: Path) -> dict[str, float]:
    """A heat map for each named set of adapters; gives the mean of what all others add to a concept's own output."""
    found = {}
    for name, group in adapters.items():
        kinds = measure_crosstalk(sd, group)
        total = kinds.get(ALL) or next(iter(kinds.values()))
        names = [adapter.name for adapter in group]
        title = f"{name}: output of each (across) on the prompts of each (down), own = 1"
        write_atomic(folder / f"crosstalk-{name}.png", png_bytes(heat_map(total.pairs, names, names, title)))
        found[name] = float(total.others.mean())
    return found


def draw_grid(
    concepts: Sequence[Subject],
    alone: Mapping[str, np.ndarray],
    merged: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
    reference: Callable[[Any], np.ndarray],
) -> None:
    """A column for each concept: a reference, alone, and merged by each method, all with the same prompt and noise."""
    rows = [[reference(c) for c in concepts], *([d[c.name][0] for c in concepts] for d in (alone, *merged.values()))]
    captions = [f"{c.token} {c.class_noun}" for c in concepts]
    captions += [name for name in ("alone", *merged) for _ in concepts]
    images = [image for row in rows for image in row]
    grid = picture_grid(np.stack(images), captions, columns=len(concepts), scale=_scale(images))
    write_atomic(path, png_bytes(grid))


def draw_all(
    concepts: Sequence[Subject], merged: Mapping[str, np.ndarray], path: Path, reference: Callable[[Any], np.ndarray]
) -> None:
    """All concepts, ten in a row: a reference of each, and under it what the merged model draws of it."""
    images = [np.concatenate([reference(c), merged[c.name][0]]) for c in concepts]
    captions = [f"{c.token} {c.class_noun}" for c in concepts]
    write_atomic(path, png_bytes(picture_grid(np.stack(images), captions, columns=10, scale=_scale(images))))


def draw_together(drawn: Mapping[str, np.ndarray], prompts: Sequence[str], path: Path) -> None:
    """A row for each prompt, a column for each label of `drawn`. A label has a picture [h, w, 3] for each prompt."""
    images = [pictures[i] for i in range(len(prompts)) for pictures in drawn.values()]
    captions = [f"{label}: {words}" for words in prompts for label in drawn]
    write_atomic(path, png_bytes(picture_grid(np.stack(images), captions, columns=len(drawn), scale=_scale(images))))


def _scale(images: Sequence[np.ndarray]) -> int:
    """Small pictures are shown at twice their size."""
    return max(1, min(2, 256 // images[0].shape[1]))
