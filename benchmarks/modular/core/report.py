"""The table: means and 95 % bootstrap intervals over seeds, concepts and prompts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.core.methods import METHODS
from blocklora_jax.io.atomic import write_atomic, write_json

Interval = tuple[float, float, float]
# Values of one seed, [concepts, prompts, k].
Values = np.ndarray
_DRAWS = 2000
# A concept's pictures can be recognised only if at least this share of its real drawings are.
_RECOGNISABLE = 0.5


def interval(
    seeds: Sequence[Values], statistic: Callable[[np.ndarray], np.ndarray] = lambda mean: mean[..., 0]
) -> Interval:
    """A statistic of the mean over all, and its 2.5th and 97.5th percentile over values that are drawn again.

    Seeds are drawn with replacement; of each drawn seed its concepts; of each drawn concept its prompts.

    seeds: one array [concepts, prompts, k] for each seed. statistic: takes means [..., k] and gives [...].
    """
    count = len(seeds)
    means = np.stack(
        [_drawn_means(values, count, index) for index, values in enumerate(seeds)], axis=1
    )  # [draws, seed, place, k]
    chosen = np.random.default_rng(0).integers(count, size=(_DRAWS, count))
    drawn = statistic(means[np.arange(_DRAWS)[:, None], chosen, np.arange(count)].mean(1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(statistic(np.mean([values.mean((0, 1)) for values in seeds], axis=0))), float(low), float(high)


def _drawn_means(values: Values, places: int, index: int) -> np.ndarray:
    """Means [draws, places, k] of one seed's values, its concepts and their prompts drawn with replacement."""
    concepts, prompts, _ = values.shape
    chosen = [_choices(concepts, prompts, index, place) for place in range(places)]
    return np.stack([values[concept, prompt].mean((1, 2)) for concept, prompt in chosen], axis=1)


@cache
def _choices(concepts: int, prompts: int, index: int, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Which concepts, and which of their prompts, a draw takes: the same for every score, to save time."""
    rng = np.random.default_rng((0, index, place))
    shape = _DRAWS, concepts
    return rng.integers(concepts, size=(*shape, 1)), rng.integers(prompts, size=(*shape, prompts))


def scores_of(results: Sequence[Mapping[str, Any]], score: str) -> list[Values]:
    """A score of all pictures, [concepts, prompts, 1] for each seed."""
    return [np.array([scores[score] for scores in r["concepts"].values()], float)[..., None] for r in results]


def mean_over(results: Sequence[Mapping[str, Any]], score: str) -> Interval:
    """A score's mean over all pictures."""
    return interval(scores_of(results, score))


def retention(merged: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]], score: str) -> Interval:
    """A score's mean while merged over its mean alone, of the same concepts and prompts."""
    return interval(_pairs(merged, alone, score), lambda mean: mean[..., 0] / mean[..., 1])


def difference(results: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], score: str) -> Interval:
    """A score's mean minus that of other results of the same concepts and prompts."""
    return interval(_pairs(results, others, score), lambda mean: mean[..., 0] - mean[..., 1])


def _pairs(results: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], score: str) -> list[Values]:
    """The scores of both, [concepts, prompts, 2] for each seed of `results`, whose concepts `others` have too."""
    by_seed = {other.get("seed"): other for other in others}
    kept = [{"concepts": {name: by_seed[r.get("seed")]["concepts"][name] for name in r["concepts"]}} for r in results]
    return [
        np.concatenate(pair, axis=2) for pair in zip(scores_of(results, score), scores_of(kept, score), strict=True)
    ]


def recognisable(base: Sequence[Mapping[str, Any]]) -> dict[Any, set[str]]:
    """By seed, the concepts whose real drawings are recognised more often than not."""
    return {
        r.get("seed"): {name for name, s in r["drawings"].items() if np.mean(s["right"]) >= _RECOGNISABLE} for r in base
    }


def _recognised(results: Sequence[Mapping[str, Any]], clear: Mapping[Any, set[str]]) -> Interval | None:
    chosen = [
        {"concepts": {name: s for name, s in r["concepts"].items() if name in clear[r.get("seed")]}} for r in results
    ]
    return mean_over(chosen, "right") if all(r["concepts"] for r in chosen) else None


def summarise(
    alone: Mapping[str, list[dict]], merged: Mapping[tuple[str, int], list[dict]], base: list[dict]
) -> list[dict[str, Any]]:
    """One row for each method and number of merged concepts, and rows for the base and for real drawings.

    alone: results by recipe; merged: by (method, n); each a list over seeds.
    """
    rows, scores, clear = [], _scores(base), recognisable(base)
    for name in ("drawings", "base"):
        results = [{"concepts": result[name], "seed": result.get("seed")} for result in base]
        kept = [score for score in scores if score != "leakage"]
        rows.append({"method": name, "n": 0} | {score: mean_over(results, score) for score in kept})
        rows[-1]["right"] = _recognised(results, clear)
    rows[0] |= _together(base)
    for (name, count), results in merged.items():
        single = alone[METHODS[name].recipe]
        row: dict[str, Any] = {"method": name, "n": count}
        row |= {score: mean_over(results, score) for score in scores}
        row |= {"right": _recognised(results, clear), "seeds": len(results)}
        row |= {f"{score}_alone": mean_over(single, score) for score in scores if score != "leakage"}
        row |= {
            f"{score}_retention": retention(results, single, score) for score in ("image", "identity", *_more(scores))
        }
        first = next(key for key in merged if key[1] == count)
        if (name, count) != first:
            row["identity_difference"] = difference(results, merged[first], "identity")
        row["drift"] = interval([_column(r["drift"]) for r in results])
        row["seconds"] = float(np.median([r["seconds"] for r in results]))
        row["parameters"] = float(np.mean([r["parameters"] for r in single]))
        row |= _together(results)
        rows.append(row)
    return rows


def by_name(
    alone: Mapping[str, list[dict]], merged: Mapping[tuple[str, int], list[dict]], base: list[dict], names: set[str]
) -> tuple[dict[str, list[dict]], dict[tuple[str, int], list[dict]], list[dict]]:
    """The arguments of `summarise` for some of the concepts; merges in which none of them is are left out."""

    def chosen(results: Sequence[Mapping[str, Any]], key: str = "concepts") -> list[dict]:
        return [{**r, key: {name: scores for name, scores in r[key].items() if name in names}} for r in results]

    merges = {key: chosen(results) for key, results in merged.items()}
    return (
        {recipe: chosen(results) for recipe, results in alone.items()},
        {key: results for key, results in merges.items() if all(r["concepts"] for r in results)},
        chosen(chosen(base, "base"), "drawings"),
    )


def _scores(base: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of what was measured."""
    return list(next(iter(base[0]["base"].values())))


def _more(scores: Sequence[str]) -> list[str]:
    """Those of them that only real concepts have, and that say how much is kept."""
    return [score for score in scores if score in ("image_large", "dino")]


def _together(results: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    found = {}
    for task in ("both", "apart", "refined"):
        if all(task in result for result in results):
            found[task] = interval([_column(r[task]) for r in results])
    for task, part in itertools.product(("stylised", "stylised_apart"), ("individual", "style")):
        if all(task in result for result in results):
            found[f"{task}_{part}"] = interval([_column([p[part] for p in r[task]]) for r in results])
    return found


def _column(values: Sequence[float]) -> Values:
    """Values of single pictures, which are drawn again as concepts are."""
    return np.asarray(values, float)[:, None, None]


def write_rows(
    found: Iterable[dict[str, Any]],
    cells: Callable[[dict[str, Any]], Sequence[str]],
    columns: Sequence[str],
    path: Path,
) -> None:
    """Write a table of results to PATH.json and PATH.md, and print each line as soon as it is known.

    cells: gives the cells of a result, one for each column.
    """
    results, lines = [], ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for result in found:
        results.append(result)
        lines.append("| " + " | ".join(cells(result)) + " |")
        print(lines[-1], flush=True)
        write_json(path.with_suffix(".json"), results)
    write_atomic(path.with_suffix(".md"), "\n".join(lines).encode())
    print("\n".join(lines))


_COLUMNS = {
    "identity_alone": "identity alone", "identity": "identity merged", "identity_retention": "kept",
    "identity_difference": "identity merged, minus the first method's", "right": "recognised", "image": "image",
    "image_retention": "image kept", "text": "text", "leakage": "leakage",
    "drift": "drift", "both": "both in one", "apart": "side by side", "stylised_individual": "stylised: who",
    "stylised_style": "stylised: style", "stylised_apart_individual": "side by side: who",
    "stylised_apart_style": "side by side: style", "seconds": "merge s", "parameters": "trained",
}  # fmt: skip

# What to read first; the README shows these.
SHORT = ("identity_alone", "identity", "identity_retention", "right", "drift", "both", "apart", "refined", "seconds")

_MORE_COLUMNS = {
    "refined": "side by side, refined",
    "clip_score": "CLIP score", "text_large": "text L/14", "image_large": "image L/14", "dino": "DINOv2",
    "dino_retention": "DINOv2 kept",
}  # fmt: skip


def markdown(
    rows: Sequence[Mapping[str, Any]], count: int, ceiling: str = "*real drawings*", only: Sequence[str] = ()
) -> str:
    """The table of `count` merged concepts, as Markdown. ceiling: what real pictures are called. only: these scores."""
    chosen = [row for row in rows if row["n"] in (0, count)]
    columns = _COLUMNS | {name: label for name, label in _MORE_COLUMNS.items() if any(name in row for row in chosen)}
    columns = {name: label for name, label in columns.items() if name in (only or columns)}
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    labels = {"base": "*base, class noun*", "drawings": ceiling}
    for row in chosen:
        label = labels.get(row["method"]) or METHODS[row["method"]].label
        lines.append(f"| {label} | " + " | ".join(_cell(row.get(name)) for name in columns) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, tuple | list) and np.isnan(value[0])):
        return "–"
    if isinstance(value, tuple | list):
        mean, low, high = value
        return f"{mean:.3f} [{low:.2f}, {high:.2f}]"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
