"""Adds noise to the pictures of a training step. Each row's noise is drawn from its own key."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from blocklora_jax.diffusion.schedule import Schedule
from train.concept.batch import Batch, Rows


class Noised(NamedTuple):
    """Network inputs of some rows, and the noise in them."""

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, " b"]


# Latents and timesteps of the random rows.
Random = tuple[Float[Array, "r h w c"], Int[Array, " r"]]


def add_noise(schedule: Schedule, latents: Rows, row: Rows, key: PRNGKeyArray, offset: float = 0.0) -> Noised:
    """Add noise to each row from its own key, so that it does not depend on how rows are spread over devices."""

    def draw(row: Array) -> tuple[Array, Array]:
        t_key, noise_key, offset_key = jax.random.split(jax.random.fold_in(key, row), 3)
        noise = jax.random.normal(noise_key, latents.shape[1:])
        shift = offset * jax.random.normal(offset_key, (1, 1, latents.shape[-1]))
        return jax.random.randint(t_key, (), 0, schedule.num_train_timesteps), noise + shift

    timesteps, noise = jax.vmap(draw)(jnp.asarray(row))
    return Noised(schedule.add_noise(jnp.asarray(latents), noise, timesteps), noise, timesteps)


def random_inputs(
    schedule: Schedule, batch: Batch, key: PRNGKeyArray, preserves_class: bool, noise_offset: float
) -> Random:
    """Latents with noise, or pure noise, of the random rows. `preserves_class`: the concept's rows and noise again."""
    if preserves_class:
        # The random rows are the concept's rows again. They get the same noise, because `random_row` has their numbers.
        noised = add_noise(schedule, batch.random_latents, batch.random_row, key, noise_offset)
        return noised.latents, noised.timesteps
    noised = add_noise(schedule, batch.random_latents, batch.random_row, jax.random.fold_in(key, 1))
    pure = batch.random_is_noise[:, None, None, None]
    return jnp.where(pure, noised.noise, noised.latents), noised.timesteps
