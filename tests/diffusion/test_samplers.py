"""What samplers must do, whatever diffusers does: recover the true sample, and refuse impossible numbers of steps."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.diffusion.generate import sample
from blocklora_jax.diffusion.samplers.table import SAMPLERS, get_sampler
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

SCHEDULE = Schedule(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_with_a_perfect_model_the_sampler_recovers_the_sample(name, prediction, spacing):
    schedule = dataclasses.replace(SCHEDULE, prediction_type=prediction, timestep_spacing=spacing)
    truth, noise = (jax.random.normal(jax.random.key(seed), (1, 4, 4, 2)) for seed in (0, 1))
    table = jnp.asarray(schedule.alphas_cumprod)

    def knows_the_truth(x, t):
        power = jnp.interp(t, jnp.arange(1000.0), table)
        if name == "euler":  # between two training steps Euler interpolates sigma, not the power
            power = 1 / (1 + jnp.interp(t, jnp.arange(1000.0), jnp.asarray(schedule.sigmas)) ** 2)
        signal, spread = jnp.sqrt(power), jnp.sqrt(1 - power)
        epsilon = (x - signal * truth) / spread
        return epsilon if prediction == "epsilon" else signal * epsilon - spread * truth

    sampler = get_sampler(name)
    clean = jax.jit(lambda n: sample(sampler, sampler.init(schedule, 10), knows_the_truth, n))(noise)
    if name == "ddim":
        # DDIM stops at training step 0. Only set_alpha_to_one removes the rest of the noise there.
        np.testing.assert_allclose(clean, truth, atol=2e-3)
    else:
        np.testing.assert_allclose(clean, truth, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_number_of_steps_gives_that_many_falling_timesteps(name, spacing):
    schedule = dataclasses.replace(SCHEDULE, timestep_spacing=spacing)
    for num_steps in (1, 3, 61, 103, 998):
        timesteps = get_sampler(name).init(schedule, num_steps).timesteps
        assert timesteps.shape == (num_steps,) and timesteps.min() >= 0 and timesteps.max() <= 999
        assert (np.diff(timesteps) < 0).all()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_errors(name, num_steps):
    with pytest.raises(UserError, match=f"{num_steps} sampling steps"):
        get_sampler(name).init(SCHEDULE, num_steps)


def test_steps_past_the_last_training_step_are_errors():
    schedule = dataclasses.replace(SCHEDULE, steps_offset=1)
    with pytest.raises(UserError, match="steps_offset 1"):
        get_sampler("ddim").init(schedule, 1000)
