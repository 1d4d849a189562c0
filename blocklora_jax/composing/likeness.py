"""How alike adapters are, and how much they change for each other's inputs, from their weights alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.on_disk import arrays_on_disk
from blocklora_jax.layouts.low_rank import LoRAPair

# Of each layer's change, only this many directions are compared, the strongest.
MOST_DIRECTIONS = 16
_ROWS_AT_ONCE = 2048
# At this cosine, one of two adapters adds next to nothing to the other.
SAME = 0.9


class Directions(NamedTuple):
    """The strongest directions of a change: down @ diag(sizes) @ up, with orthonormal columns and rows."""

    down: Float[np.ndarray, "n q"]
    sizes: Float[np.ndarray, " q"]
    up: Float[np.ndarray, "q m"]


class Likeness(NamedTuple):
    """Adapters compared in pairs.

    cosines: of the changes of all layers, as one vector each: 1 for changes in the same direction.
    overlaps: |P_i dW_j| / |dW_i| in row i, column j, where P_i projects onto the inputs that adapter i reads: how much
        adapter j does on these inputs, compared with adapter i; 1 on the diagonal. Without prompts, this stands in for
        crosstalk.
    sizes: |dW_i|.
    """

    names: tuple[str, ...]
    cosines: Float[np.ndarray, "k k"]
    overlaps: Float[np.ndarray, "k k"]
    sizes: Float[np.ndarray, " k"]


def strongest(pair: LoRAPair, scale: float = 1.0, most: int = MOST_DIRECTIONS) -> Directions:
    """The strongest directions of `scale * lora_A @ lora_B`, from its SVD.

    >>> pair = LoRAPair(np.eye(3, 2, dtype=np.float32), np.diag([2.0, 1.0]).astype(np.float32))
    >>> strongest(pair, most=1).sizes.tolist()
    [2.0]
    """
    a, b = np.asarray(pair.lora_A, np.float32), np.asarray(pair.lora_B, np.float32)
    q_a, r_a = np.linalg.qr(a * np.float32(scale))
    q_b, r_b = np.linalg.qr(b.T)
    u, sizes, v = np.linalg.svd(r_a @ r_b.T)
    kept = min(most, len(sizes))
    return Directions(q_a @ u[:, :kept], sizes[:kept], v[:kept] @ q_b.T)


def directions_of(adapter: Adapter) -> dict[str, Directions]:
    """The strongest directions of every layer ("unet/…/to_k"), in a temporary file."""
    layers = {f"{c}/{path}": pair for c, group in adapter.lora.items() for path, pair in group.items()}
    return arrays_on_disk({layer: strongest(pair, adapter.info.scale) for layer, pair in layers.items()})


def compare(names: Sequence[str], changes: Sequence[dict[str, Directions]]) -> Likeness:
    """Compares adapters, given as `directions_of` gives them. One layer at a time is in memory.

    >>> one = {"unet/a": Directions(np.eye(2, 1), np.ones(1), np.eye(1, 2))}
    >>> compare(["x", "y"], [one, one]).cosines.round(3).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    count = len(changes)
    products, energies = np.zeros((count, count)), np.zeros((count, count))
    for layer in sorted({layer for change in changes for layer in change}):
        members = [index for index, change in enumerate(changes) if layer in change]
        _add_layer(products, energies, members, [changes[index][layer] for index in members])
    own = np.maximum(np.diag(products), 1e-30)
    cosines = products / np.sqrt(own[:, None] * own[None, :])
    return Likeness(tuple(names), cosines, np.sqrt(np.maximum(energies, 0) / own[:, None]), np.sqrt(own))


def groups_of_same(likeness: Likeness, least: float = SAME) -> list[list[int]]:
    """Groups of adapters of which each is nearly the same as the first one, the largest change."""
    groups, left = [], set(range(len(likeness.names)))
    for index in np.argsort(-likeness.sizes, kind="stable"):
        if index in left:
            same = [int(other) for other in sorted(left) if other != index and likeness.cosines[index, other] >= least]
            left -= {int(index), *same}
            groups += [[int(index), *same]] if same else []
    return groups


def disturbance(likeness: Likeness) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """For each adapter: the root mean square of its overlaps with all others, and of theirs with it."""
    others = np.square(likeness.overlaps)
    np.fill_diagonal(others, 0)
    rest = max(1, len(others) - 1)
    return np.sqrt(others.sum(0) / rest), np.sqrt(others.sum(1) / rest)


def map_order(cosines: Float[np.ndarray, "k k"]) -> list[int]:
    """An order in which adapters that are alike are near each other: that of the Fiedler vector of their cosines."""
    if len(cosines) < 3:
        return list(range(len(cosines)))
    near = np.abs(cosines)
    _, vectors = np.linalg.eigh(np.diag(near.sum(1)) - near)
    return [int(index) for index in np.argsort(vectors[:, 1], kind="stable")]


def _add_layer(
    products: np.ndarray, energies: np.ndarray, members: Sequence[int], layers: Sequence[Directions]
) -> None:
    """Add a layer's inner products of changes, and the energies of changes on the inputs that each adapter reads."""
    kinds = {(len(each.down), each.up.shape[1]) for each in layers}
    for shape in kinds:  # Adapters for other base models have layers of other shapes. These have nothing in common.
        chosen = [
            (i, each) for i, each in zip(members, layers, strict=True) if (len(each.down), each.up.shape[1]) == shape
        ]
        down = np.concatenate([each.down for _, each in chosen], axis=1)
        up = np.concatenate([each.up for _, each in chosen])
        sizes = np.concatenate([each.sizes for _, each in chosen])
        edges = np.cumsum([0, *(len(each.sizes) for _, each in chosen)])
        places = np.array([i for i, _ in chosen])
        for first, last in _parts(edges):
            rows = slice(edges[first], edges[last])
            shared = down[:, rows].T @ down
            both = shared * (up[rows] @ up.T) * sizes[rows, None] * sizes[None, :]
            to = np.ix_(places[first:last], places)
            products[to] += _sums(both, edges[first : last + 1] - edges[first], edges)
            energies[to] += _sums(
                np.square(shared) * np.square(sizes)[None, :], edges[first : last + 1] - edges[first], edges
            )


def _sums(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The sums over blocks of `values` between the edges."""
    return np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows[:-1], axis=0), columns[:-1], axis=1)


def _parts(edges: np.ndarray) -> Iterable[tuple[int, int]]:
    """Ranges of adapters with about `_ROWS_AT_ONCE` directions together."""
    first = 0
    while first < len(edges) - 1:
        last = first + 1
        while last < len(edges) - 1 and edges[last + 1] - edges[first] <= _ROWS_AT_ONCE:
            last += 1
        yield first, last
        first = last
