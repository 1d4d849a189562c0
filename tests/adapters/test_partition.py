"""Blocks, slots and their supports."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora_jax.adapters.partition import Partition, full_support, slot_from_name
from blocklora_jax.errors import UserError

LAYER = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"


@st.composite
def layers(draw):
    """(partition, kernel shape); every side that is cut has at least K features."""
    blocks = draw(st.integers(1, 12))
    side = st.integers(blocks, 60)
    axis = draw(st.sampled_from(["in", "out", "grid"]))
    return Partition(num_blocks=blocks, axis=axis, seed=draw(st.integers(0, 2**40))), (draw(side), draw(side))


@given(layers(), st.text(max_size=8))
def test_blocks_of_all_slots_are_disjoint_and_cover_every_cut_side(layer, path):
    partition, shape = layer
    supports = [partition.support(path, shape, (slot,)) for slot in range(partition.num_blocks)]
    for side, cut in ((0, partition.axis != "out"), (1, partition.axis != "in")):
        features = [support[side] for support in supports]
        if not cut:
            assert all(np.array_equal(owned, np.arange(shape[side])) for owned in features)
            continue
        assert sorted(np.concatenate(features)) == list(range(shape[side]))
        sizes = [len(owned) for owned in features]
        assert max(sizes) - min(sizes) <= 1
        assert all(np.array_equal(owned, np.arange(owned[0], owned[-1] + 1)) for owned in features)


@given(layers())
def test_kernel_entries_of_different_slots_are_disjoint(layer):
    partition, shape = layer
    owned = []
    for slot in range(partition.num_blocks):
        rows, columns = partition.support(LAYER, shape, (slot,))
        owned.append({(r, c) for r in rows.tolist() for c in columns.tolist()})
    assert not any(one & other for one, other in combinations(owned, 2))
    if partition.axis != "grid":
        assert len(set().union(*owned)) == shape[0] * shape[1]


@given(layers(), st.data())
def test_several_slots_own_the_union_of_theirs_sorted(layer, data):
    partition, shape = layer
    slots = data.draw(st.lists(st.integers(0, partition.num_blocks - 1), min_size=1, unique=True).map(tuple))
    together = partition.support(LAYER, shape, slots)
    for side in (0, 1):
        alone = [partition.support(LAYER, shape, (slot,))[side] for slot in slots]
        np.testing.assert_array_equal(together[side], np.unique(np.concatenate(alone)))


def first_rows(path: str, seed: int) -> list[int]:
    partition = Partition(num_blocks=16, seed=seed)
    return [int(partition.support(path, (64, 8), (slot,)).rows[0]) for slot in range(16)]


def test_a_slot_has_a_different_block_in_every_layer_and_for_every_seed():
    kinds = {tuple(first_rows(f"{LAYER}{i}", seed)) for i in range(4) for seed in range(4)}
    assert len(kinds) == 16


def test_blocks_of_a_slot_never_change():
    # Adapter files depend on these numbers, so they must never change.
    rows = first_rows(LAYER, 0)
    assert rows == [36, 56, 60, 0, 12, 48, 40, 20, 16, 24, 32, 28, 4, 8, 44, 52]
    assert [slot_from_name(name, 16) for name in ("ada", "rex", "p1")] == [13, 2, 6]


def test_sizes_of_blocks_never_change():
    partition = Partition(num_blocks=4, axis="out")
    columns = [partition.support(LAYER, (3, 10), (slot,)).columns.tolist() for slot in range(4)]
    assert sorted(columns) == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


@given(st.text(), st.integers(1, 99))
def test_a_name_draws_a_slot_within_the_partition(name, blocks):
    assert 0 <= slot_from_name(name, blocks) < blocks


def test_an_unblocked_adapter_owns_everything():
    rows, columns = full_support((3, 2))
    assert rows.tolist() == [0, 1, 2]
    assert columns.tolist() == [0, 1]


def test_check_slots_sorts():
    assert Partition(num_blocks=8).check_slots((5, 0)) == (0, 5)


@pytest.mark.parametrize("slots", [(), (8,), (-1,), (1, 1)])
def test_impossible_slots_are_refused(slots):
    with pytest.raises(UserError, match="distinct numbers from 0 to 7"):
        Partition(num_blocks=8).check_slots(slots)


def test_a_layer_narrower_than_the_partition_is_named():
    with pytest.raises(UserError, match=f"{LAYER} has 5 input features, fewer than num_blocks=8"):
        Partition(num_blocks=8).support(LAYER, (5, 64), (0,))
    with pytest.raises(UserError, match="5 output features"):
        Partition(num_blocks=8, axis="grid").support(LAYER, (64, 5), (0,))


def test_impossible_partitions_are_refused():
    with pytest.raises(UserError, match="num_blocks is 0"):
        Partition(num_blocks=0)


def test_an_unknown_axis_from_a_file_is_refused():
    partition = Partition()
    object.__setattr__(partition, "axis", "rows")  # in the constructor the tests' type checker would refuse it
    with pytest.raises(UserError, match="unknown block axis 'rows'"):
        partition.__post_init__()
