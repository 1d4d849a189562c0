"""The ranked list and the map that `merge check` shows of many adapters: which are alike, which disturb the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.likeness import (
    SAME,
    Directions,
    Likeness,
    directions_of,
    disturbance,
    groups_of_same,
    map_order,
)
from blocklora_jax.io.heat_map import dense_map

# An adapter that does less than this on the inputs of the others does nothing there: it is rounding, or nearly so.
_LEAST = 0.01


def finite_directions(adapter: Adapter) -> dict[str, Directions] | None:
    """The directions of its changes; None if these are infinite, as the product of finite factors can be."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            directions = directions_of(adapter)
    except np.linalg.LinAlgError:
        return None
    return directions if all(np.isfinite(each.sizes).all() for each in directions.values()) else None


def ranked(likeness: Likeness) -> list[str]:
    """A line for each adapter, those that disturb the others most first, with the adapter that it is most like."""
    gives, gets = disturbance(likeness)
    # An adapter is not like itself.
    nearest = likeness.cosines - 4 * np.eye(len(gives))
    like = nearest.argmax(1)
    width = max(8, *(len(name) for name in likeness.names)) + 2
    lines = [f"{'adapter':<{width}}{'disturbs':>9}{'disturbed':>11}{'cosine':>8}  most like"]
    for index in np.argsort(-gives, kind="stable"):
        name, other = likeness.names[index], likeness.names[like[index]]
        cosine = nearest[index, like[index]]
        lines.append(f"{name:<{width}}{gives[index]:>9.3f}{gets[index]:>11.3f}{cosine:>8.3f}  {other}")
    return lines


def advice(likeness: Likeness) -> list[str]:
    """What to leave out: adapters that are nearly the same as another one, and those that disturb far more."""
    lines = [
        f"nearly the same (cosine {SAME:g} or more): keep {likeness.names[first]}, leave out "
        f"{', '.join(likeness.names[i] for i in rest)}"
        for first, *rest in groups_of_same(likeness)
    ]
    gives, _ = disturbance(likeness)
    usual = float(np.median(gives))
    for i in [int(i) for i in np.argsort(-gives) if gives[i] > 3 * max(usual, _LEAST)]:
        how = f"{gives[i] / usual:.1f} times as much as the median" if usual > _LEAST else "and most of them do not"
        lines.append(f"{likeness.names[i]} disturbs the others {how}: give it a lower weight, or leave it out")
    return lines


def likeness_map(likeness: Likeness) -> Image.Image:
    """A picture of all cosines, in which adapters that are alike are near each other."""
    order = map_order(likeness.cosines)
    names: Sequence[str] = [likeness.names[index] for index in order]
    return dense_map(np.abs(likeness.cosines[np.ix_(order, order)]), names, "how alike: |cosine| of changes; red is 1")
