"""What samplers must do, whatever diffusers does: recover the true sample, and refuse impossible numbers of steps."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.diffusion.sample import sample
from blocklora_jax.diffusion.samplers.spacing import SIGMA_SPACINGS, curved_sigmas
from blocklora_jax.diffusion.samplers.table import SAMPLERS, get_sampler, with_spacing
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

SCHEDULE = Schedule(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
)


def draw_with_a_perfect_model(name, schedule, truth, noise):
    table, steps = jnp.asarray(schedule.alphas_cumprod), jnp.arange(1000.0)

    def knows_the_truth(x, t):
        power = jnp.interp(t, steps, table)
        if name in ("euler", "euler_a", "heun"):  # between two training steps they interpolate sigma, not the power
            power = 1 / (1 + jnp.interp(t, steps, jnp.asarray(schedule.sigmas)) ** 2)
        if schedule.sigma_spacing:  # and on curves its logarithm
            power = 1 / (1 + jnp.exp(2 * jnp.interp(t, steps, jnp.log(jnp.asarray(schedule.sigmas)))))
        signal, spread = jnp.sqrt(power), jnp.sqrt(1 - power)
        epsilon = (x - signal * truth) / spread
        return epsilon if schedule.prediction_type == "epsilon" else signal * epsilon - spread * truth

    sampler = get_sampler(name)
    fresh = jax.random.normal(jax.random.key(2), (10, *noise.shape))
    return jax.jit(lambda n: sample(sampler, sampler.init(schedule, 10), knows_the_truth, n, lambda i: fresh[i]))(noise)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_with_a_perfect_model_the_sampler_recovers_the_sample(name, prediction, spacing):
    schedule = dataclasses.replace(SCHEDULE, prediction_type=prediction, timestep_spacing=spacing)
    truth, noise = (jax.random.normal(jax.random.key(seed), (1, 4, 4, 2)) for seed in (0, 1))
    clean = draw_with_a_perfect_model(name, schedule, truth, noise)
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
        if name == "lcm":
            num_steps = num_steps % 50
        timesteps = get_sampler(name).init(schedule, num_steps).timesteps
        if name == "heun":  # calls at the end of a step and at the beginning of the next one have the same timestep
            assert (timesteps[1::2] == timesteps[2::2]).all()
            timesteps = timesteps[::2]
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


@pytest.mark.parametrize("curve", SIGMA_SPACINGS)
@pytest.mark.parametrize("name", ["euler", "euler_a", "heun"])
def test_with_a_perfect_model_the_sample_is_recovered_along_a_curve_of_noise_levels(name, curve):
    truth, noise = (jax.random.normal(jax.random.key(seed), (1, 4, 4, 2)) for seed in (0, 1))
    # 1e-4: as for the other spacings.
    clean = draw_with_a_perfect_model(name, with_spacing(SCHEDULE, name, curve), truth, noise)
    np.testing.assert_allclose(clean, truth, atol=1e-4)


def test_curves_go_from_the_largest_to_the_smallest_noise_and_karras_ends_with_smaller_steps():
    karras, exponential = (curved_sigmas(curve, 14.6, 0.03, 9) for curve in SIGMA_SPACINGS)
    for sigmas in (karras, exponential):
        np.testing.assert_allclose(sigmas[[0, -1]], [14.6, 0.03], rtol=1e-12)  # double precision
        assert (np.diff(sigmas) < 0).all()
    assert karras[4] > exponential[4]


def test_a_spacing_that_a_sampler_does_not_have_is_an_error_that_names_its_own():
    assert with_spacing(SCHEDULE, "ddim", None) is SCHEDULE
    assert with_spacing(SCHEDULE, "ddim", "trailing").timestep_spacing == "trailing"
    for name, spacing, message in (
        ("ddim", "karras", "give one of leading, trailing, linspace"),
        ("lcm", "trailing", "it has its own"),
        ("euler", "even", "choose one of leading, trailing, linspace, karras, exponential"),
        ("dpmpp_2m_karras", None, "give dpmpp_2m with the spacing karras"),
    ):
        with pytest.raises(UserError, match=message):
            with_spacing(SCHEDULE, name, spacing)


def test_lcm_refuses_more_steps_than_it_was_distilled_from():
    with pytest.raises(UserError, match="51 sampling steps: the sampler lcm allows 1 to 50"):
        get_sampler("lcm").init(SCHEDULE, 51)


def test_samplers_that_add_noise_need_a_source_of_it():
    sampler = get_sampler("euler_a")
    with pytest.raises(UserError, match="adds noise"):
        sample(sampler, sampler.init(SCHEDULE, 2), lambda x, t: x, jnp.zeros((1, 4, 4, 2)))
