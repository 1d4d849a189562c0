"""The token side of erasure compared with closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.token_side import (
    direction_energies,
    hinge,
    natural_norm,
    norm_excess,
    own_and_others,
    owned_mask,
    token_side_loss,
    token_starts,
    whitened_directions,
)

WIDTH, BLOCKS = 12, 4
PARTITION = Partition(num_blocks=BLOCKS, basis="0" * 16, assignment="text")


def random_basis(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)


def states_of(basis: np.ndarray, energies: np.ndarray, amounts: np.ndarray, lengths: int = 3) -> jnp.ndarray:
    """States [1, t, d] whose amplitude along every direction is `amounts` times that of ordinary text."""
    state = basis @ (np.sqrt(energies) * amounts)
    return jnp.asarray(np.tile(state, (1, lengths, 1)), jnp.float32)


@settings(deadline=None)  # the first example compiles
@given(st.integers(0, 99), st.integers(0, BLOCKS - 1), st.floats(0.1, 30), st.floats(0.1, 30))
def test_the_ratio_is_the_energy_of_own_over_that_of_other_directions(seed, slot, mine, rest):
    basis, energies = random_basis(seed), np.random.default_rng(seed).uniform(1e-3, 10, WIDTH)
    owned = owned_mask(PARTITION.directions("", WIDTH, (slot,)), WIDTH)
    states = states_of(basis, energies, np.where(owned, mine, rest))
    measured = direction_energies(states, jnp.zeros(1, int), whitened_directions(basis, energies))
    own, others = own_and_others(measured, owned)
    # fp32 products of numbers whose sizes differ by up to 100 (deviations) times 300 (amplitudes).
    np.testing.assert_allclose([own, others], [mine**2, rest**2], rtol=0.05, atol=5e-5 * max(mine, rest) ** 2)
    loss, ratio = token_side_loss(
        direction_energies(states, jnp.zeros(1, int), whitened_directions(basis, energies)), owned, tau=2.0
    )
    np.testing.assert_allclose(ratio, own / others, rtol=1e-3)
    np.testing.assert_allclose(loss, max(0.0, 2.0 - np.log(own / others)), rtol=1e-3, atol=1e-3)


def test_positions_before_the_token_do_not_count():
    basis, energies = random_basis(0), np.ones(WIDTH)
    states = jax.random.normal(jax.random.key(0), (2, 5, WIDTH))
    ids = jnp.array([[1, 2, 9, 10, 0], [1, 9, 10, 0, 0]])
    starts = token_starts(ids, rows=9)
    assert starts.tolist() == [2, 1]
    whitened = whitened_directions(basis, energies)
    before = jnp.arange(5)[None] < starts[:, None]
    changed = jnp.where(before[..., None], 100.0, states)
    # Equal bit for bit, because positions before the token are multiplied by zero.
    np.testing.assert_array_equal(
        direction_energies(states, starts, whitened), direction_energies(changed, starts, whitened)
    )
    expected = np.mean([np.square(np.asarray(states[i, s:]) @ whitened).mean(0) for i, s in enumerate((2, 1))], 0)
    np.testing.assert_allclose(direction_energies(states, starts, whitened), expected, rtol=1e-5)  # fp32 sums of ten


def test_the_gradient_moves_states_into_the_own_directions():
    basis, owned = random_basis(1), owned_mask(PARTITION.directions("", WIDTH, (1,)), WIDTH)
    whitened, start = whitened_directions(basis, np.ones(WIDTH)), jnp.zeros(1, int)
    states = jnp.asarray(basis @ np.ones(WIDTH, np.float32))[None, None]
    gradient = jax.grad(lambda x: token_side_loss(direction_energies(x, start, whitened), owned, tau=1.0)[0])(states)[
        0, 0
    ]
    along = basis.T @ np.asarray(gradient)
    # d/dx_d of log(mean others) - log(mean own) at x = 1: 2 / 9 outside, -2 / 3 inside.
    np.testing.assert_allclose(along, np.where(owned, -2 / 3, 2 / 9), rtol=1e-4)


@pytest.mark.parametrize("amount", [0.0, 1e-20, 1e6])
def test_loss_and_gradient_are_finite_for_states_of_any_size(amount):
    whitened = whitened_directions(random_basis(2), np.r_[np.full(WIDTH - 1, 1e4), 0.0])
    owned = owned_mask(PARTITION.directions("", WIDTH, (3,)), WIDTH)
    states = jnp.full((1, 2, WIDTH), amount)
    loss, gradient = jax.value_and_grad(
        lambda x: token_side_loss(direction_energies(x, jnp.zeros(1, int), whitened), owned, 2.0)[0]
    )(states)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert np.isfinite(jax.grad(lambda x: norm_excess(x, jnp.ones(()), 3.0))(jnp.full((2, 4), amount))).all()


def test_the_hinge_is_zero_once_tau_is_reached():
    own, others = jnp.asarray(np.exp(2.0), jnp.float32), jnp.ones(())
    assert hinge(own, others, 1.9) == 0
    np.testing.assert_allclose(hinge(own, others, 2.5), 0.5, rtol=1e-5)


def test_only_tokens_longer_than_the_limit_are_penalised():
    table = np.eye(4, dtype=np.float32) * 2
    natural = jnp.asarray(natural_norm(table))
    assert natural == 2
    tokens = jnp.asarray([[[8.0, 0, 0, 0], [6.0, 0, 0, 0]], [[1.0, 0, 0, 0], [0, 0, 0, 0]]])
    np.testing.assert_allclose(norm_excess(tokens, natural, 3.0), [0.5, 0.0], rtol=1e-5)  # (4 - 3)^2 of one of two
