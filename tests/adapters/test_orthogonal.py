"""Orthogonal Adaptation: disjoint rows of one orthonormal basis for each layer."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import block_masks, init_lora
from blocklora_jax.adapters.orthogonal import basis_rows, count_sets, init_orthogonal
from blocklora_jax.errors import UserError

TO_K, TO_Q, FC = "down_blocks_0/attn2/to_k", "down_blocks_0/attn2/to_q", "layers_0/q_proj"
SHAPES = {"unet": {TO_K: (48, 20), TO_Q: (20, 20)}, "text_encoder": {FC: (48, 24)}}

# Computed by Gram-Schmidt from the normal draws that 12 words of Philox give.
GOLDEN = [
    [0.4152978861384087, 0.4044294598216279, -0.81484015475267],
    [0.8975819514058828, -0.0365451519812161, 0.43933027710035755],
]


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 1), (4, 0)])
def test_two_slots_have_orthogonal_down_projections(one, other):
    first, second = (init_orthogonal(0, SHAPES, slot, rank=4) for slot in (one, other))
    for component, layers in SHAPES.items():
        for path in layers:
            a, b = first[component][path].lora_A, second[component][path].lora_A
            assert np.abs(a.T @ b).max() < 1e-5 * np.abs(a.T @ a).max()
            assert not np.any(first[component][path].lora_B)
            assert first[component][path].lora_B.shape == (4, layers[path][1])


def test_all_slots_together_form_one_rotation():
    slots = [init_orthogonal(7, SHAPES, slot, rank=4)["unet"][TO_Q].lora_A for slot in range(5)]
    whole = np.concatenate(slots, axis=1, dtype=np.float64)
    np.testing.assert_allclose(whole @ whole.T, np.eye(20) / 3, atol=1e-7)
    np.testing.assert_allclose(whole, basis_rows(7, f"unet/{TO_Q}", 20, 0, 20) / np.sqrt(3), atol=1e-7)


def test_a_slot_s_rows_do_not_depend_on_how_the_basis_is_cut():
    two = [basis_rows(0, "unet/x", 24, first, 2) for first in (4, 6)]
    np.testing.assert_allclose(np.concatenate(two, axis=1), basis_rows(0, "unet/x", 24, 4, 4), atol=1e-12)


def test_seed_and_layer_choose_the_basis():
    rows = [basis_rows(*choice, 24, 0, 4) for choice in ((0, "unet/x"), (1, "unet/x"), (0, "unet/y"))]
    for i in range(3):
        for j in range(i):
            # Two unrelated rotations: far from equal, and far from orthogonal.
            assert 0.1 < np.abs(rows[i].T @ rows[j]).max() < 0.9


def test_the_basis_never_changes():
    # Files made years apart are merged, so the expected numbers are written down here, not computed.
    np.testing.assert_allclose(basis_rows(0, "unet/x", 3, 0, 2).T, GOLDEN, atol=1e-12)


def test_rows_are_as_long_as_those_of_an_ordinary_adapter():
    shapes = {"unet": {f"layers_{i}": (200, 3) for i in range(20)}}
    info = AdapterInfo(name="x", class_noun="y", trigger="z", rank=8, alpha=8.0)
    ordinary = init_lora(jax.random.key(0), shapes, block_masks(info, shapes), 8)
    orthogonal = init_orthogonal(0, shapes, slot=2, rank=8)
    squares = [
        np.mean([np.square(pair.lora_A).sum(0).mean() for pair in tree["unet"].values()])
        for tree in (ordinary, orthogonal)
    ]
    # 160 rows of 200 uniform entries have a standard deviation of 0.5 %.
    assert squares[0] == pytest.approx(squares[1], rel=0.02)


def test_a_slot_that_the_narrowest_layer_lacks_is_refused():
    assert count_sets(SHAPES, 4) == 5
    for slot in (5, -1):
        with pytest.raises(
            UserError, match=rf"--slot {slot} must lie in 0\.\.4 .*unet/{TO_Q} has 20 inputs, 5 sets of --rank 4"
        ):
            init_orthogonal(0, SHAPES, slot, rank=4)
    with pytest.raises(
        UserError, match=rf"too few rows for one slot: layer unet/{TO_Q} has 20 inputs, 0 sets .*lower --rank"
    ):
        init_orthogonal(0, SHAPES, 0, rank=21)


def test_a_basis_has_as_many_vectors_as_inputs():
    with pytest.raises(ValueError, match="a basis of 4 inputs has no vectors 3 to 4"):
        basis_rows(0, "unet/x", 4, 3, 2)
