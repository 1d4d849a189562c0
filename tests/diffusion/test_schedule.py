"""The schedule's fields, errors and equations. Its numbers are compared with diffusers in tests/parity."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
V = {**SD15, "prediction_type": "v_prediction"}


def latents(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (3, 2, 2, 4))


T = jnp.array([0, 500, 999])


def test_schedule_of_stable_diffusion_is_read_and_written_back():
    schedule = Schedule.from_json(SD15, "scheduler_config.json")
    assert schedule.steps_offset == 1 and not schedule.set_alpha_to_one and schedule.timestep_spacing is None
    saved = json.loads(json.dumps(schedule.to_json(), allow_nan=False))
    assert SD15.items() <= saved.items() and "timestep_spacing" not in saved
    assert Schedule.from_json(saved, "again") == schedule


def test_schedule_is_hashable_and_passes_through_jit():
    schedule = Schedule.from_json(SD15, "a")
    assert hash(schedule) == hash(Schedule.from_json(SD15, "b"))
    noised = jax.jit(lambda s, x: s.add_noise(x, x, T))(schedule, latents(0))
    np.testing.assert_allclose(noised, schedule.add_noise(latents(0), latents(0), T), rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("beta_schedule", "sigmoid", "squaredcos_cap_v2"),
        ("prediction_type", "sample", "v_prediction"),
        ("prediction_type", "flow_prediction", "v_prediction"),
        ("timestep_spacing", "even", "trailing"),
        ("timestep_type", "continuous", "discrete"),
        ("use_flow_sigmas", True, "False"),
        ("use_dynamic_shifting", True, "False"),
        ("variance_type", "learned_range", "fixed_small"),
        ("snr_shift_scale", 3.0, "1.0"),
        ("trained_betas", [0.1, 0.2], "num_train_timesteps = 1000"),
        ("trained_betas", [0.1, "a"], "a list of numbers"),
        ("trained_betas", [0.1, float("nan")], "a list of numbers"),
        ("clip_sample", 1, "true, false"),
        ("num_train_timesteps", True, "whole number"),
        ("num_train_timesteps", 100_001, "100000"),
        ("steps_offset", 10**9, "100000"),
        ("beta_end", "0.012", "between 0 and 1"),
        ("beta_start", float("nan"), "between 0 and 1"),
        ("lambda_min_clipped", float("inf"), "a number"),
        ("clip_sample_range", float("inf"), "a number above 0"),
        ("clip_sample_range", 10**400, "a number above 0"),
        ("predict_epsilon", False, "True"),
        ("shift", 3.0, "unknown field"),
        ("sigma_data", 0.5, "unknown field"),
        ("train_noise_offset", [1], "unknown field"),
    ],
)
def test_unsupported_fields_are_named_with_what_is_supported(field, value, supported):
    with pytest.raises(UserError) as caught:
        Schedule.from_json({**SD15, field: value}, "model/scheduler_config.json")
    shown = "trained_betas" if field == "trained_betas" else str(value) if isinstance(value, str) else repr(value)
    assert all(part in str(caught.value) for part in ("model/scheduler_config.json", field, shown[:80], supported))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EDMEulerScheduler", "EDMEulerScheduler scales the model's input and output by EDM's preconditioning"),
        ("FlowMatchEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler does not add noise by betas"),
        (["DDIMScheduler"], "(supported: a name)"),
    ],
)
def test_schedulers_with_another_kind_of_noise_are_named(name, message):
    with pytest.raises(UserError) as caught:
        Schedule.from_json({"_class_name": name, "num_train_timesteps": 1000}, "x")
    assert message in str(caught.value)


def test_every_problem_is_reported_at_once():
    with pytest.raises(UserError, match="(?s)use_flow_sigmas.*timestep_type.*shift"):
        Schedule.from_json({"use_flow_sigmas": True, "timestep_type": "continuous", "shift": 1}, "x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thresholding", True),
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_lu_lambdas", True),
        ("algorithm_type", "sde-dpmsolver++"),
        ("final_sigmas_type", "sigma_min"),
        ("solver_order", 3),
        ("solver_type", "heun"),
        ("sigma_max", 14.6),
        ("timestep_scaling", 10.0),
        ("disable_corrector", [0]),
        ("my_own_note", {"a": [1]}),
        ("use_flux_capacitor", False),
        ("_class_name", "MyOwnScheduler"),
    ],
)
def test_fields_that_concern_only_the_sampler_are_kept(field, value):
    config = {**SD15, field: value}
    schedule = Schedule.from_json(config, "x")
    assert schedule == Schedule.from_json(SD15, "x")
    assert config.items() <= schedule.to_json().items()


def test_trained_betas_define_the_noise():
    betas = np.linspace(0.01, 0.3, 20).tolist()
    schedule = Schedule.from_json({**SD15, "num_train_timesteps": 20, "trained_betas": betas}, "x")
    # fp32 products of 20 numbers.
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - np.array(betas)), rtol=1e-6)
    assert hash(schedule) == hash(Schedule.from_json(schedule.to_json(), "again"))
    assert schedule.to_json()["trained_betas"] == betas


@pytest.mark.parametrize(
    "config",
    [
        {"num_train_timesteps": 100_000},
        {"beta_start": 0.9, "beta_end": 0.99},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "num_train_timesteps": 1},
        {"num_train_timesteps": 20, "trained_betas": [0.999999] * 20},
    ],
)
def test_betas_that_leave_no_signal_are_refused(config):
    with pytest.raises(UserError, match=r"x: this noise schedule .* leave no signal"):
        Schedule.from_json(config, "x")


def test_zero_snr_needs_velocity_prediction():
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        Schedule.from_json({**SD15, "rescale_betas_zero_snr": True}, "x")
    assert Schedule.from_json({**V, "rescale_betas_zero_snr": True}, "x").alphas_cumprod[-1] == 0


@pytest.mark.parametrize("config", [SD15, V], ids=["epsilon", "velocity"])
def test_a_perfect_prediction_gives_back_noise_and_picture(config):
    schedule, x0, noise = Schedule.from_json(config, "x"), latents(0), latents(1)
    x_t = schedule.add_noise(x0, noise, T)
    answer = schedule.training_target(x0, noise, T)
    # 1e-4 for the picture at the last step, where it is 7 % of what is seen.
    np.testing.assert_allclose(schedule.predicted_x0(answer, x_t, T), x0, atol=1e-4)
    np.testing.assert_allclose(schedule.predicted_noise(answer, x_t, T), noise, atol=1e-5)


def test_min_snr_weights_follow_the_formula():
    snr = Schedule.from_json(SD15, "x").snr(T)
    assert snr[0] > 5 > snr[1]
    epsilon = Schedule.from_json(SD15, "x").min_snr_weight(T, 5.0)
    velocity = Schedule.from_json(V, "x").min_snr_weight(T, 5.0)
    np.testing.assert_allclose(epsilon, [5 / snr[0], 1, 1], rtol=1e-6)
    np.testing.assert_allclose(velocity, np.minimum(snr, 5) / (snr + 1), rtol=1e-6)


def test_picture_weights_count_the_clean_latents_error():
    x0, noise, wrong = (jax.random.normal(jax.random.key(i), (len(T), 2, 2, 4)) for i in range(3))
    for config in (SD15, V):
        schedule = Schedule.from_json(config, "x")
        noisy, target = schedule.add_noise(x0, noise, T), schedule.training_target(x0, noise, T)
        picture_error = np.square(schedule.predicted_x0(wrong, noisy, T) - x0).mean((1, 2, 3))
        weighted = schedule.picture_weight(T, 5.0) * np.square(wrong - target).mean((1, 2, 3))
        # Differences of numbers near 14 in fp32 where there is least signal.
        np.testing.assert_allclose(weighted, (np.minimum(schedule.snr(T), 5) + 1) * picture_error, rtol=1e-3)


def test_min_snr_weights_are_finite_without_signal():
    schedule = Schedule.from_json({**V, "rescale_betas_zero_snr": True}, "x")
    assert schedule.min_snr_weight(T, 5.0)[-1] == 0
