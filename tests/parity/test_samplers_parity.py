"""Whole trajectories of our samplers equal those of diffusers' schedulers, with a nonlinear stand-in for the U-Net."""

from __future__ import annotations

import itertools
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from blocklora_jax.diffusion.samplers.table import SAMPLERS, start
from blocklora_jax.diffusion.schedule import Schedule

REFERENCE = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
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
BETAS = [
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
]
VARIANTS = [
    {**SD15, **betas, "prediction_type": prediction, "timestep_spacing": spacing}
    for betas, prediction, spacing in itertools.product(
        BETAS, ("epsilon", "v_prediction"), ("leading", "trailing", "linspace")
    )
]
ODD = [
    SD15,
    {},
    {**SD15, "clip_sample": True, "clip_sample_range": 0.7, "set_alpha_to_one": True},
    {**SD15, "num_train_timesteps": 321, "steps_offset": 0},
    {**SD15, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {**SD15, "lambda_min_clipped": -1.5, "timestep_spacing": "linspace"},
    {**SD15, "lambda_min_clipped": -1.5, "timestep_spacing": "leading"},
]
NOISE = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)


def fake(x, t):
    """A nonlinear stand-in for the U-Net. It uses only operations that NumPy, PyTorch and XLA round alike."""
    x = 0.75 * x - 0.5 * x[np.array([1, 0])] + t / 1024
    return x / (1 + abs(x))


def reference_trajectory(name: str, config: dict, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    scheduler = REFERENCE[name].from_config(config)
    scheduler.set_timesteps(num_steps)
    x = torch.from_numpy(NOISE) * scheduler.init_noise_sigma
    states = []
    for t in scheduler.timesteps:
        output = fake(scheduler.scale_model_input(x, t), t.float())
        x = scheduler.step(output, t, x).prev_sample
        states.append(x.numpy())
    return np.stack(states), scheduler.timesteps.numpy()


@partial(jax.jit, static_argnums=0)
def scan_plan(name, plan, noise):
    sampler = SAMPLERS[name]

    def body(state, xs):
        t, row = xs
        state = sampler.step(row, state, fake(sampler.scale(row, state.latents), t))
        return state, state.latents

    return jax.lax.scan(body, start(plan, noise), (plan.timesteps, plan.coefficients))[1]


def trajectories(name: str, config: dict, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Our trajectory and theirs, `[steps, values]`, after checking that both call the U-Net at the same timesteps."""
    expected, timesteps = reference_trajectory(name, config, num_steps)
    plan = SAMPLERS[name].init(Schedule.from_json(config, "test"), num_steps)
    np.testing.assert_array_equal(plan.timesteps, timesteps.astype(np.float32))
    got = np.asarray(scan_plan(name, plan, jnp.asarray(NOISE)))
    return got.reshape(num_steps, -1), expected.reshape(num_steps, -1)


def start_ulp(name: str, config: dict, num_steps: int) -> float:
    """Distance of two neighbouring single-precision numbers at the size of the first latents."""
    plan = SAMPLERS[name].init(Schedule.from_json(config, "test"), num_steps)
    return float(np.spacing(np.abs(NOISE).max() * plan.init_noise_sigma))


@pytest.mark.parametrize("num_steps", [1, 4, 5, 20, 50])
@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectories_equal_diffusers(name, num_steps):
    for config in VARIANTS + ODD:
        got, expected = trajectories(name, config, num_steps)
        # 1e-5 of the largest value of each step, plus two units in the last place of the first latents. The latter
        # matter only for Euler with cosine betas, where the latents fall from 20000 to 1 in one step. This is a
        # difference of large numbers, which single precision holds to 2e-3. From sigma 15 (Stable Diffusion): 2e-6.
        allowed = 1e-5 * np.abs(expected).max(1) + 2 * start_ulp(name, config, num_steps)
        error = np.abs(got - expected).max(1)
        assert (error <= allowed).all(), (config, (error / allowed).max())


@pytest.mark.parametrize("config", VARIANTS[::3] + ODD[:4], ids=str)
def test_tables_equal_diffusers_bit_for_bit(config):
    reference = diffusers.DDPMScheduler.from_config(config)
    ours = Schedule.from_json(config, "test")
    np.testing.assert_array_equal(ours.alphas_cumprod, reference.alphas_cumprod.numpy())


def test_zero_snr_table_equals_diffusers():
    config = ODD[4]
    reference = diffusers.DDPMScheduler.from_config(config).alphas_cumprod.numpy()
    ours = Schedule.from_json(config, "test")
    # Every ratio of two neighbours is rounded to fp32 (6e-8 at most), and up to a thousand of them are multiplied. If
    # the errors are independent, this gives 6e-8 sqrt(1000) = 2e-6. PyTorch's rounding depends on the CPU: the
    # difference is 2e-7 on an Intel CPU and 4e-7 on an AMD CPU.
    np.testing.assert_allclose(ours.alphas_cumprod, reference, rtol=0, atol=1e-6)
    # Algorithm 1 of the paper, in double precision.
    signal = np.sqrt(np.cumprod(1 - np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000) ** 2))
    exact = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    np.testing.assert_allclose(ours.alphas_cumprod, exact, rtol=0, atol=1e-6)
    assert ours.alphas_cumprod[-1] == 0 and np.isfinite(ours.sigmas).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noising_and_targets_equal_diffusers(prediction):
    config = {**SD15, "prediction_type": prediction}
    reference, ours = diffusers.DDPMScheduler.from_config(config), Schedule.from_json(config, "test")
    x0, noise = NOISE, NOISE[::-1].copy()
    t = np.array([3, 977])
    torch_args = [torch.from_numpy(a) for a in (x0, noise, t)]
    # 1e-6: a handful of single-precision operations on values near 1.
    x0, noise, t = map(jnp.asarray, (x0, noise, t))
    noised = ours.add_noise(x0, noise, t)
    np.testing.assert_allclose(noised, reference.add_noise(*torch_args), atol=1e-6)
    velocity = reference.get_velocity(*torch_args)
    np.testing.assert_allclose(ours.velocity(x0, noise, t), velocity, atol=1e-6)
    target = ours.training_target(x0, noise, t)
    np.testing.assert_allclose(target, noise if prediction == "epsilon" else velocity, atol=1e-6)


@pytest.mark.parametrize("config", [SD15, {**ODD[4]}, VARIANTS[5]], ids=str)
def test_saved_config_opens_in_diffusers(config, tmp_path):
    saved = Schedule.from_json(config, "test").to_json()
    for name, cls in REFERENCE.items():
        ours, theirs = cls.from_config(saved), cls.from_config(config)
        ours.set_timesteps(7), theirs.set_timesteps(7)
        np.testing.assert_array_equal(ours.timesteps, theirs.timesteps, err_msg=name)
        np.testing.assert_array_equal(ours.alphas_cumprod, theirs.alphas_cumprod)
