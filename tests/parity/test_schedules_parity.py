"""For every scheduler's config, our schedule adds the same noise as the scheduler of diffusers."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import load_folder, save_folder
from blocklora_jax.checkpoints.prediction import ZERO_SNR_CLASSES
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.schedule_json import CLASSES
from blocklora_jax.errors import UserError
from blocklora_jax.testing.folders import make_checkpoint

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# All but one, which needs torchsde.
MADE = [name for name in CLASSES if name != "DPMSolverSDEScheduler"]
OTHERS = ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "IPNDMScheduler"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def saved_config(scheduler, folder) -> dict:
    scheduler.save_pretrained(folder)
    return json.loads((folder / "scheduler_config.json").read_text())


@pytest.mark.parametrize("name", MADE)
def test_the_noise_of_every_scheduler_is_read_bit_for_bit(name, tmp_path):
    scheduler = getattr(diffusers, name)(**BETAS)
    config = saved_config(scheduler, tmp_path)
    schedule = Schedule.from_json(config, name)
    np.testing.assert_array_equal(schedule.alphas_cumprod, scheduler.alphas_cumprod.numpy())
    assert schedule.prediction_type == scheduler.config.prediction_type
    kept = schedule.to_json()
    # Without the field the value is minus infinity.
    assert {key: value for key, value in config.items() if value != -np.inf}.items() <= kept.items()


@pytest.mark.parametrize("name", MADE)
def test_missing_fields_have_the_defaults_of_the_scheduler_class(name):
    np.testing.assert_array_equal(
        Schedule.from_json({"_class_name": name}, name).alphas_cumprod,
        getattr(diffusers, name)().alphas_cumprod.numpy(),
    )


@pytest.mark.parametrize("name", sorted(ZERO_SNR_CLASSES))
def test_zero_terminal_snr_is_read_of_every_scheduler_that_has_it(name):
    scheduler = getattr(diffusers, name)(**BETAS, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    ours = Schedule.from_json(dict(scheduler.config), name)
    theirs = scheduler.alphas_cumprod.numpy().copy()
    # Some schedulers use the smallest positive fp16 number where there is no signal.
    assert ours.alphas_cumprod[-1] == 0 and theirs[-1] in (0, 2.0**-24)
    # fp32 of sums and products in another order.
    np.testing.assert_allclose(ours.alphas_cumprod[:-1], theirs[:-1], rtol=1e-5)


def test_trained_betas_are_those_of_diffusers():
    betas = np.linspace(0.001, 0.02, 500).tolist()
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=500, trained_betas=betas)
    ours = Schedule.from_json(dict(scheduler.config), "x")
    np.testing.assert_array_equal(ours.alphas_cumprod, scheduler.alphas_cumprod.numpy())


@pytest.mark.parametrize("name", OTHERS)
def test_schedulers_of_another_kind_of_noise_are_refused(name):
    with pytest.raises(UserError, match=name):
        Schedule.from_json(dict(getattr(diffusers, name)().config) | {"_class_name": name}, "x")


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "LCMScheduler", "DPMSolverMultistepScheduler"])
def test_a_folder_keeps_its_schedulers_config(checkpoint, name, tmp_path):
    save_folder(tmp_path / "model", checkpoint)
    (tmp_path / "model/blocklora.json").unlink()  # as if diffusers had written all of it
    switches = {"use_karras_sigmas": True} if name != "LCMScheduler" else {"timestep_scaling": 8.0}
    config = saved_config(getattr(diffusers, name)(**BETAS, **switches), tmp_path / "model/scheduler")
    loaded = load_folder(tmp_path / "model")
    Schedule.from_json(dict(loaded.scheduler), "x")
    save_folder(tmp_path / "again", loaded)
    assert json.loads((tmp_path / "again/scheduler/scheduler_config.json").read_text()) == config
    index = json.loads((tmp_path / "again/model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", name]
