"""What `python -m merge … --prompt` draws: the cells of the grid, as a list, a strip over weights, or a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.calls import called_adapters, only_calling
from blocklora_jax.errors import UserError
from merge.cli.options import MergeOptions


class Variant(NamedTuple):
    """A merged model: the indices of its adapters, and the weight of each."""

    adapters: tuple[int, ...]
    weights: tuple[float, ...]


class Cell(NamedTuple):
    """A picture of the grid. index: of its noise; cells with the same index start from the same noise."""

    variant: Variant
    prompt: str
    index: int
    caption: str


class Grid(NamedTuple):
    """The cells row by row. columns: None: about as many as rows."""

    cells: list[Cell]
    columns: int | None


def whole(options: MergeOptions, adapters: Sequence[Adapter]) -> Variant:
    """The model with all adapters, as the user asked for it."""
    return Variant(tuple(range(len(adapters))), options.weights or (1.0,) * len(adapters))


def plan_grid(options: MergeOptions, adapters: Sequence[Adapter]) -> Grid:
    """The cells that the options ask for; see `check_comparison`."""
    merged, prompts = whole(options, adapters), options.prompt
    # The first picture of each prompt has the noise that it has without --count.
    rows = [(prompt, k * len(prompts) + i) for i, prompt in enumerate(prompts) for k in range(options.count)]
    if options.strip_weights:
        cells = [
            Cell(_scaled(merged, factor), prompt, index, f"weight {factor:g}: {prompt}")
            for prompt, index in rows
            for factor in options.strip_weights
        ]
        return Grid(cells, len(options.strip_weights))
    if options.compare:
        return Grid([cell for row in rows for cell in _comparison(merged, *row, adapters)], 2)
    cells = [Cell(merged, prompt, index, prompt) for prompt, index in rows]
    return Grid(cells, options.count if options.count > 1 else None)


def check_comparison(options: MergeOptions, adapters: Sequence[Adapter]) -> None:
    """Raises UserError if a comparison is asked for and a prompt calls no concept. It needs no model."""
    for prompt in options.prompt if options.compare else ():
        if not called_adapters(prompt, adapters):
            names = ", ".join(token for adapter in adapters for token in sorted(adapter.tokens)) or "none"
            raise UserError(f"--compare: the prompt {prompt!r} calls no concept by its token (tokens: {names})")


def _comparison(merged: Variant, prompt: str, index: int, adapters: Sequence[Adapter]) -> list[Cell]:
    """For each concept that the prompt calls: the concept alone, and the merged model."""
    cells, called = [], called_adapters(prompt, adapters)
    for place, adapter in enumerate(adapters):
        if any(adapter is other for other in called):
            alone = Variant((place,), (merged.weights[place],))
            cells.append(Cell(alone, only_calling(adapter, prompt, adapters), index, f"{adapter.name} alone: {prompt}"))
            cells.append(Cell(merged, prompt, index, f"merged: {prompt}"))
    return cells


def _scaled(variant: Variant, factor: float) -> Variant:
    return variant._replace(weights=tuple(factor * weight for weight in variant.weights))
