"""Likeness of adapters, compared with whole matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from merge_builders import make_adapter

from blocklora_jax.composing.likeness import (
    Likeness,
    compare,
    directions_of,
    disturbance,
    groups_of_same,
    map_order,
    strongest,
)
from blocklora_jax.layouts.low_rank import LoRAPair


@pytest.fixture(scope="module")
def adapters():
    three = [make_adapter(name, partition=None) for name in ("ada", "ben", "rex")]
    # Nearly ada, twice as large, and one that changes a single layer.
    near = {c: {p: LoRAPair(2.02 * a, b) for p, (a, b) in g.items()} for c, g in three[0].lora.items()}
    one = {
        "unet": {
            next(iter(three[1].lora["unet"])): LoRAPair(*(x + 0 for x in next(iter(three[2].lora["unet"].values()))))
        }
    }
    return [*three, replace(three[0], lora=near), replace(three[2], lora=one)]


def whole(adapter, shapes) -> np.ndarray:
    """All changes as one vector."""
    parts = []
    for component, layers in shapes.items():
        for path, shape in layers.items():
            pair = adapter.lora.get(component, {}).get(path)
            change = np.zeros(shape) if pair is None else adapter.info.scale * pair.lora_A @ pair.lora_B
            parts.append(np.ravel(change))
    return np.concatenate(parts).astype(np.float64)


def test_cosines_and_sizes_are_those_of_all_changes_as_one_vector(adapters):
    likeness = compare([a.name for a in adapters], [directions_of(a) for a in adapters])
    vectors = np.stack([whole(a, adapters[0].shapes()) for a in adapters])
    sizes = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(likeness.sizes, sizes, rtol=1e-5)
    np.testing.assert_allclose(likeness.cosines, vectors @ vectors.T / np.outer(sizes, sizes), atol=1e-5)
    assert likeness.cosines[0, 3] > 0.999


def test_overlaps_are_changes_on_the_inputs_that_an_adapter_reads(adapters):
    likeness = compare([a.name for a in adapters], [directions_of(a) for a in adapters])
    one, other = adapters[0], adapters[1]
    energy = own = 0.0
    for component, layers in one.lora.items():
        for path, pair in layers.items():
            read = np.linalg.qr(pair.lora_A)[0]
            theirs = other.lora[component][path]
            energy += np.sum((read.T @ (other.info.scale * theirs.lora_A @ theirs.lora_B)) ** 2)
            own += np.sum((one.info.scale * pair.lora_A @ pair.lora_B) ** 2)
    np.testing.assert_allclose(likeness.overlaps[0, 1], np.sqrt(energy / own), rtol=1e-4)
    np.testing.assert_allclose(np.diag(likeness.overlaps), 1, atol=1e-5)


def test_layers_of_different_shapes_have_nothing_in_common():
    layer = "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"
    adapters = [make_adapter(str(n), partition=None, layers={"unet": {layer: (n, 16)}}) for n in (24, 32)]
    likeness = compare(["a", "b"], [directions_of(a) for a in adapters])
    assert likeness.cosines[0, 1] == likeness.overlaps[0, 1] == 0


def test_only_the_strongest_directions_are_kept():
    rng = np.random.default_rng(0)
    pair = LoRAPair(rng.standard_normal((20, 6)).astype(np.float32), rng.standard_normal((6, 9)).astype(np.float32))
    kept = strongest(pair, 0.5, most=2)
    u, sizes, v = np.linalg.svd(0.5 * pair.lora_A @ pair.lora_B)
    np.testing.assert_allclose(kept.down * kept.sizes @ kept.up, u[:, :2] * sizes[:2] @ v[:2], atol=1e-5)


def likeness_of(cosines, overlaps=None, sizes=None) -> Likeness:
    cosines = np.array(cosines, float)
    names = tuple("abcdefgh"[: len(cosines)])
    return Likeness(
        names,
        cosines,
        cosines if overlaps is None else np.array(overlaps, float),
        np.array(sizes or [1.0] * len(cosines)),
    )


def test_the_largest_of_those_that_are_nearly_the_same_is_kept():
    same = likeness_of([[1, 0.95, 0], [0.95, 1, 0], [0, 0, 1]], sizes=[1, 2, 3])
    assert groups_of_same(same) == [[1, 0]]


def test_a_loud_adapter_disturbs_and_a_quiet_one_is_disturbed():
    gives, gets = disturbance(likeness_of(np.eye(3), overlaps=[[1, 3, 0], [0, 1, 0], [0, 4, 1]]))
    np.testing.assert_allclose(gives, [0, np.sqrt(25 / 2), 0])
    np.testing.assert_allclose(gets, [3 / np.sqrt(2), 0, 4 / np.sqrt(2)])


def test_alike_adapters_are_neighbours_on_the_map():
    cosines = np.full((4, 4), 0.01)
    for i, j in ((0, 2), (1, 3)):
        cosines[i, j] = cosines[j, i] = 0.9
    np.fill_diagonal(cosines, 1)
    order = map_order(cosines)
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1
