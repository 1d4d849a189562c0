"""A search for a method's settings, one after the other, that does not end on the edge of its grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# How far a step beyond the grid's end goes, and how many of them are taken.
_RATIO = 1.7
_STEPS_BEYOND = 5


def grid_search(
    grid: Mapping[str, tuple[float, ...]], score: Callable[[dict[str, float]], float], bounds: Mapping[str, float]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The settings of the highest score, and all that was tried with its "score".

    Each setting in turn is searched while the others stay; with several settings all are searched twice. A search
    whose best value is at an end goes on beyond it.

    grid: ascending values of each setting. It starts from the middle ones. score: of settings. bounds: the highest
    possible value of a setting, where there is one.
    """
    known: dict[tuple[float, ...], float] = {}

    def scored(settings: dict[str, float]) -> float:
        key = tuple(settings.values())
        if key not in known:
            known[key] = score(settings)
        return known[key]

    best = {name: values[len(values) // 2] for name, values in grid.items()}
    for _ in range(2 if len(grid) > 1 else 1):
        for name, values in grid.items():
            best[name] = _search_one(
                sorted({*values, best[name]}), lambda value, name=name: scored(best | {name: value}), bounds.get(name)
            )
    return best, [dict(zip(grid, key, strict=True)) | {"score": value} for key, value in known.items()]


def _search_one(values: list[float], score: Callable[[float], float], bound: float | None) -> float:
    """The best of ascending values, and of those beyond its ends as far as the best is at an end."""
    for _ in range(_STEPS_BEYOND + 1):
        best = max(values, key=score)
        if best == values[0]:
            values = [round(values[0] / _RATIO, 3), *values]
        elif best == values[-1] and best != bound:
            values = [*values, min(round(values[-1] * _RATIO, 3), bound or float("inf"))]
        else:
            break
    return max(values, key=score)
