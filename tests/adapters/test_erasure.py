"""Closed forms of Randomized Output Erasure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.adapters.erasure import epsilon_erasure, layer_erasure, output_energy


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_energy_is_the_ratio_of_squared_norms_of_each_row():
    change, base = normal(0, 3, 2, 4), normal(1, 3, 2, 4)
    expected = [np.linalg.norm(c) ** 2 / np.linalg.norm(b) ** 2 for c, b in zip(change, base, strict=True)]
    np.testing.assert_allclose(output_energy(change, base), expected, rtol=1e-5)


def test_energy_is_one_for_a_change_as_large_as_the_output():
    base = normal(0, 2, 8)
    np.testing.assert_allclose(output_energy(-base, base), 1, rtol=1e-6)
    np.testing.assert_allclose(output_energy(3 * base, base), 9, rtol=1e-6)


def test_an_adapter_without_output_has_no_energy_even_where_the_base_has_no_output():
    assert not np.any(output_energy(jnp.zeros((2, 4)), normal(0, 2, 4)))
    assert not np.any(output_energy(jnp.zeros((2, 4)), jnp.zeros((2, 4))))


def test_the_denominator_gets_no_gradient():
    change, base = normal(0, 2, 4), normal(1, 2, 4)
    to_change, to_base = jax.grad(lambda c, b: layer_erasure(output_energy(c, b)[None]), (0, 1))(change, base)
    assert not np.any(to_base)
    expected = 2 * change / jnp.sum(jnp.square(base), 1, keepdims=True) / 2  # mean over two rows
    np.testing.assert_allclose(to_change, expected, rtol=1e-5)


def test_gradient_of_a_new_adapter_is_finite():
    gradient = jax.grad(lambda c: output_energy(c, jnp.zeros((2, 4))).sum())(jnp.zeros((2, 4)))
    assert np.isfinite(gradient).all()


def test_sums_are_in_float32_whatever_the_layer_computes_in():
    change, base = (normal(seed, 2, 4096).astype(jnp.bfloat16) for seed in (0, 1))
    energy = output_energy(change, base)
    assert energy.dtype == jnp.float32
    np.testing.assert_allclose(energy, output_energy(change.astype(jnp.float32), base.astype(jnp.float32)), rtol=1e-5)


def test_the_layer_form_is_the_mean_over_layers_and_rows_however_rows_are_split():
    energies = jnp.abs(normal(0, 3, 4))
    whole = layer_erasure(energies)
    np.testing.assert_allclose(whole, np.mean(energies), rtol=1e-6)
    halves = [layer_erasure(energies[:, :2]), layer_erasure(energies[:, 2:])]
    np.testing.assert_allclose(whole, np.mean(halves), rtol=1e-6)


def test_the_epsilon_form_is_the_mean_squared_difference_with_a_gradient_only_for_the_adapted_model():
    adapted, base = normal(0, 2, 3, 3, 4), normal(1, 2, 3, 3, 4)
    np.testing.assert_allclose(epsilon_erasure(adapted, base), np.mean((adapted - base) ** 2), rtol=1e-6)
    to_adapted, to_base = jax.grad(epsilon_erasure, (0, 1))(adapted, base)
    assert not np.any(to_base)
    np.testing.assert_allclose(to_adapted, 2 * (adapted - base) / adapted.size, rtol=1e-5)
