"""The ranked list and the map that `merge check` shows of many adapters: which are alike, which disturb the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from blocklora_jax.composing.likeness import SAME, Likeness, disturbance, groups_of_same, map_order
from blocklora_jax.io.heat_map import dense_map


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
    loud = [int(i) for i in np.argsort(-gives) if gives[i] > 3 * usual > 0]
    lines += [
        f"{likeness.names[i]} disturbs the others {gives[i] / usual:.1f} times as much as the median: give it a lower "
        "weight, or leave it out"
        for i in loud
    ]
    return lines


def likeness_map(likeness: Likeness) -> Image.Image:
    """A picture of all cosines, in which adapters that are alike are near each other."""
    order = map_order(likeness.cosines)
    names: Sequence[str] = [likeness.names[index] for index in order]
    return dense_map(np.abs(likeness.cosines[np.ix_(order, order)]), names, "how alike: |cosine| of changes; red is 1")
