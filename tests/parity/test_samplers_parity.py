"""Whole trajectories of our samplers equal those of diffusers' schedulers, with a nonlinear stand-in for the U-Net."""

from __future__ import annotations

import itertools
import sys
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from blocklora_jax.diffusion.samplers.spacing import SIGMA_SPACINGS
from blocklora_jax.diffusion.samplers.table import SAMPLERS, start, with_spacing
from blocklora_jax.diffusion.schedule import Schedule

REFERENCE = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "lcm": diffusers.LCMScheduler,
    "ddpm": diffusers.DDPMScheduler,
}
# diffusers computes these in double precision here. In single precision, Euler ancestral takes the root of a difference
# of nearly equal numbers (NaN with cosine betas), and Heun amplifies rounding by the ratio of two noise levels.
PRECISE = ("euler_a", "heun")
SETTINGS = {"dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"}}
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
CURVED = [SD15, *VARIANTS[1:6:2], VARIANTS[8], VARIANTS[17]]
# Heun in diffusers does not rescale betas.
CONFIGS = {
    name: [c for c in VARIANTS + ODD if name != "heun" or "rescale_betas_zero_snr" not in c] for name in REFERENCE
}
NOISE = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
FRESH = np.random.default_rng(1).standard_normal((99, 2, 4, 4, 3)).astype(np.float32)


def fake(x, t):
    """A nonlinear stand-in for the U-Net. It uses only operations that NumPy, PyTorch and XLA round alike."""
    x = 0.75 * x - 0.5 * x[np.array([1, 0])] + t / 1024
    return x / (1 + abs(x))


def make_reference(name: str, config: dict, num_steps: int, curve: str | None = None):
    """The scheduler of diffusers. All classes get the same betas and clipping, although they have other defaults."""
    schedule = Schedule.from_json(config, "test")
    shared = {key: getattr(schedule, key) for key in ("beta_start", "beta_end", "beta_schedule", "clip_sample")}
    curved = {f"use_{curve}_sigmas": True} if curve else {}
    scheduler = REFERENCE[name].from_config({**config, **shared, **SETTINGS.get(name, {}), **curved})
    scheduler.set_timesteps(num_steps)
    if name == "euler_a" and curve:  # It has no curves in diffusers. In k-diffusion it has those of Euler.
        euler = make_reference("euler", config, num_steps, curve)
        scheduler.sigmas, scheduler.timesteps = euler.sigmas, euler.timesteps
    if name in PRECISE:
        scheduler.sigmas = scheduler.sigmas.double()
    return scheduler


def reference_trajectory(name: str, scheduler) -> np.ndarray:
    """The latents after each step. Schedulers that draw noise get that of `FRESH`."""
    x = torch.from_numpy(NOISE).to(scheduler.sigmas.dtype if name in PRECISE else torch.float32)
    x, states = x * scheduler.init_noise_sigma, []
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules[type(scheduler).__module__]
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(FRESH[len(states)]))
        scheduler.set_begin_index(0) if hasattr(scheduler, "set_begin_index") else None
        for t in scheduler.timesteps:
            output = fake(scheduler.scale_model_input(x, t), t.float())
            x = scheduler.step(output, t, x).prev_sample
            states.append(x.numpy())
    return np.stack(states)


@partial(jax.jit, static_argnums=0)
def scan_plan(name, plan, noise):
    sampler = SAMPLERS[name]

    def body(state, xs):
        t, row, noise_by, fresh = xs
        state = sampler.step(row, state, fake(sampler.scale(row, state.latents), t))
        state = state._replace(latents=state.latents + noise_by * fresh) if noise_by is not None else state
        return state, state.latents

    rows = (plan.timesteps, plan.coefficients, plan.noise_by, FRESH[: len(plan.timesteps)])
    return jax.lax.scan(body, start(plan, noise, sampler.memory), rows)[1]


def trajectories(name: str, config: dict, num_steps: int, curve: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Our trajectory and theirs, `[calls, values]`, after checking that both call the U-Net at the same timesteps."""
    scheduler = make_reference(name, config, num_steps, curve)
    plan = SAMPLERS[name].init(with_spacing(Schedule.from_json(config, "test"), name, curve), num_steps)
    # Timesteps at given noise levels have fractions. They come from logarithms in single precision: 1e-6.
    np.testing.assert_allclose(plan.timesteps, scheduler.timesteps.numpy(), rtol=1e-6 if curve else 0, atol=0)
    expected = reference_trajectory(name, scheduler)
    got = np.asarray(scan_plan(name, plan, jnp.asarray(NOISE)))
    return got.reshape(len(got), -1), expected.reshape(len(expected), -1)


def start_ulp(name: str, config: dict, num_steps: int) -> float:
    """Distance of two neighbouring single-precision numbers at the size of the first latents; for Heun, as it grows."""
    plan = SAMPLERS[name].init(Schedule.from_json(config, "test"), num_steps)
    sigma = plan.coefficients.sigma if name == "heun" and num_steps > 1 else np.ones(2)
    # Heun's correction divides the prediction by the second noise level, and multiplies by the distance to the first.
    amplified = 1 + sigma[0] / sigma[1] / 2
    return float(np.spacing(np.abs(NOISE).max() * plan.init_noise_sigma) * (amplified if name == "heun" else 1))


@pytest.mark.parametrize("num_steps", [1, 4, 5, 20, 50])
@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectories_equal_diffusers(name, num_steps):
    for config in CONFIGS[name]:
        got, expected = trajectories(name, config, num_steps)
        # 1e-5 of the largest value of each step, plus two units in the last place of the first latents. The latter
        # matter only for Euler with cosine betas, where the latents fall from 20000 to 1 in one step. This is a
        # difference of large numbers, which single precision holds to 2e-3. From sigma 15 (Stable Diffusion): 2e-6.
        allowed = 1e-5 * np.abs(expected).max(1) + 2 * start_ulp(name, config, num_steps)
        error = np.abs(got - expected).max(1)
        assert (error <= allowed).all(), (config, (error / allowed).max())


@pytest.mark.parametrize("curve", SIGMA_SPACINGS)
@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if "karras" in sampler.spacings])
def test_trajectories_along_curves_of_noise_levels_equal_diffusers(name, curve):
    for config, num_steps in itertools.product(CURVED, (1, 4, 20, 50)):
        got, expected = trajectories(name, config, num_steps, curve)
        allowed = 1e-5 * np.abs(expected).max(1) + 2 * start_ulp(name, config, num_steps)  # as above
        error = np.abs(got - expected).max(1)
        assert (error <= allowed).all(), (config, num_steps, (error / allowed).max())


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
