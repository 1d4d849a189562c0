"""The schedule's fields, errors and equations; its numbers are compared with diffusers in tests/parity."""

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
        ("timestep_spacing", "even", "trailing"),
        ("thresholding", True, "False"),
        ("use_karras_sigmas", True, "False"),
        ("algorithm_type", "sde-dpmsolver++", "dpmsolver++"),
        ("solver_order", 3, "2"),
        ("trained_betas", [0.1, 0.2], "None"),
        ("clip_sample", 1, "true, false"),
        ("num_train_timesteps", True, "whole number"),
        ("beta_end", "0.012", "between 0 and 1"),
        ("shift", 3.0, "unknown field"),
    ],
)
def test_unsupported_fields_are_named_with_what_is_supported(field, value, supported):
    with pytest.raises(UserError) as caught:
        Schedule.from_json({**SD15, field: value}, "model/scheduler_config.json")
    assert all(part in str(caught.value) for part in ("model/scheduler_config.json", field, repr(value), supported))


def test_every_problem_is_reported_at_once():
    with pytest.raises(UserError, match="(?s)thresholding.*use_lu_lambdas.*shift"):
        Schedule.from_json({"thresholding": True, "use_lu_lambdas": True, "shift": 1}, "x")


def test_zero_snr_needs_velocity():
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        Schedule.from_json({**SD15, "rescale_betas_zero_snr": True}, "x")
    assert Schedule.from_json({**V, "rescale_betas_zero_snr": True}, "x").alphas_cumprod[-1] == 0


@pytest.mark.parametrize("config", [SD15, V], ids=["epsilon", "velocity"])
def test_a_perfect_answer_gives_back_noise_and_picture(config):
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
