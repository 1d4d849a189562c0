"""Training within a time: the learning rate falls to its end, runs resume, and a NaN is taken back."""

import json
import time
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.checkpoints.diffusers import load_folder
from blocklora_jax.errors import UserError
from blocklora_jax.pocket import architecture
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.pocket.world import vocabulary
from blocklora_jax.prompts.tokenizer import Tokenizer
from train.base.__main__ import read_config
from train.base.config import TIMED_DEFAULTS, BaseConfig, timed_config
from train.base.package import Packager
from train.base.pictures import PictureSet, draw_pictures, read_picture_sets
from train.base.run import train_base
from train.base.timed import loop
from train.base.timed import run as timed
from train.base.timed.clock import Clock
from train.base.timed.drawing import draw_for
from train.base.timed.schedules import LEAST, cosine, hold_then_linear
from train.base.timed.stage import Data, Stage


class Seconds:
    """A clock that goes on by `step` whenever it is read, and by what is added to `now`."""

    def __init__(self, step=0.0):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def _stage(loss=None, **changes):
    """Fits a number to rows that are all 3."""

    def squared(params, frozen, rows, key):
        value = jnp.square(params - rows).mean()
        return value, {"loss": value}

    settings = {"name": "toy", "batch": 2, "learning_rate": 0.1, "decay": cosine, "seed": 0, "steps": 4}
    return Stage(loss=loss or squared, **settings | changes)


def _run(folder, share, seconds, stage=None, **changes):
    stage = stage or _stage()
    clock = Clock(folder / "clock.json", 1e9, seconds)
    data = Data(jnp.full((5,), 3.0), jnp.int32(5))
    call = stage.function()

    def timed_call(*arguments):
        seconds.now += 1.0
        return call(*arguments)

    state = stage.start(jnp.float32(0))
    return loop.run_timed(stage, timed_call, state, data, (), folder / "toy", clock, share, **changes), clock


def _metrics(folder):
    return [json.loads(line) for line in (folder / "toy" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def logged(monkeypatch):
    """Every call is logged, and time is the test's own."""
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    seconds = Seconds()
    monkeypatch.setattr(loop.time, "monotonic", lambda: seconds.now)
    return seconds


@pytest.mark.parametrize("share", [7.0, 40.3])
def test_the_learning_rate_falls_to_its_end_when_the_time_is_over(tmp_path, logged, share):
    state, clock = _run(tmp_path, share, logged)
    rates = [line["rate"] for line in _metrics(tmp_path)]
    # A call takes one second; the last begins when less than one and a half are left.
    assert share - 1 <= clock.stages["toy"].used <= share + 0.5
    assert rates[-1] == pytest.approx(0.1 * LEAST * min(1, int(state.step) / 200), rel=1e-4)
    assert int(state.step) == 4 * len(rates)


def test_schedules_end_at_their_least_value():
    for decay in (cosine, hold_then_linear):
        assert decay(jnp.float32(1), jnp.int32(10_000)) == pytest.approx(LEAST, rel=1e-5)
        assert decay(jnp.float32(0), jnp.int32(10_000)) == 1
        assert decay(jnp.float32(0), jnp.int32(0)) == pytest.approx(1 / 200)
    assert hold_then_linear(jnp.float32(0.5), jnp.int32(10_000)) == 1


def test_a_run_saves_as_time_passes_and_goes_on_where_it_was(tmp_path, logged):
    saves = []

    def stop(state):
        saves.append(int(state.step))
        if len(saves) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, 20.0, logged, save_seconds=5.0, saved=stop)
    kept = json.loads((tmp_path / "clock.json").read_text())
    assert kept["stages"]["toy"]["share"] == 20 and 9 <= kept["used"] <= 11
    # Half of the time is over. Another share does not count any more.
    state, clock = _run(tmp_path, 99.0, logged, save_seconds=5.0)
    assert clock.stages["toy"].used == pytest.approx(20, abs=1.5)
    assert int(state.step) > saves[1] == _metrics(tmp_path)[0]["step"] + 4 * (len(saves[:1]) * 9)
    # What has ended makes no more steps.
    again, _ = _run(tmp_path, 20.0, logged)
    assert int(again.step) == int(state.step) and again.params == state.params


def test_a_nan_is_taken_back_at_half_the_learning_rate(tmp_path, logged, capsys):
    def loss(params, frozen, rows, key):
        value = jnp.where(params > 0.05, jnp.nan, 1.0) * jnp.square(params - rows).mean()
        return value, {"loss": value}

    with pytest.raises(UserError, match=r"toy: .*loss.* became NaN or infinite 4 times: lower its learning rate"):
        _run(tmp_path, 1e3, logged, _stage(loss, decay=lambda progress, step: jnp.float32(1)))
    assert capsys.readouterr().out.count("back to step 0 at half the learning rate") == 3


def test_pictures_are_drawn_until_the_time_is_over_and_are_those_of_the_training_by_steps(tmp_path):
    most = PictureSet(5, 600, 0.35)
    pictures, drawn = draw_for(0.0, most, 1000, workers=1)
    assert drawn == PictureSet(5, 250, 0.35) and len(pictures.captions) == 250 and pictures.images.shape[0] == 1000
    assert not pictures.images[250:].any()
    chosen = PictureSet(5, 20, 0.35)
    first = draw_pictures(tmp_path, chosen, workers=0)
    np.testing.assert_array_equal(pictures.images[:20], first.images)
    assert pictures.captions[:20] == first.captions


@pytest.fixture
def tiny(monkeypatch):
    """Networks that compile quickly."""
    small = {"block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    unet = {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    unet |= {"cross_attention_dim": 16, "attention_head_dim": 2, "sample_size": 32, "block_out_channels": [8]}
    vae = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    text, vision = architecture.text_config, architecture.VISION
    narrow = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    monkeypatch.setattr(architecture, "UNET", architecture.UNET | small | unet)
    monkeypatch.setattr(architecture, "VAE", architecture.VAE | small | vae)
    monkeypatch.setattr(architecture, "VISION", vision | narrow)
    monkeypatch.setattr(architecture, "text_config", lambda rows: text(rows) | narrow)
    monkeypatch.setattr(timed, "CALL_STEPS", 2)
    monkeypatch.setattr(Packager, "preview", lambda *_: b"")


def test_a_whole_model_is_trained_within_its_minutes_and_opens(tmp_path, tiny):
    config = timed_config(0.05, out=tmp_path, pictures=30, clip_batch=8, vae_batch=2, unet_batch=4, seed=3)
    folder = train_base(config)
    model = load_folder(folder)
    assert read_picture_sets(folder) == [PictureSet(3, 30, 0.35)]
    assert model.configs["vae"].scaling_factor > 0 and np.isfinite(model.configs["vae"].scaling_factor)
    assert (folder / "judge").is_dir() and "--minutes 0.05" in (folder / "README.md").read_text()
    for name in ("clip", "vae", "unet"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["progress"] == pytest.approx(1, abs=0.5) and np.isfinite(lines[-1]["loss"])
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        train_base(config)


def test_a_resumed_run_draws_the_same_pictures_and_does_not_count_the_time_for_it(tmp_path):
    config = timed_config(1.0, out=tmp_path, pictures=30, seed=3)
    rows = write_tokenizer(tmp_path / "tokenizer", vocabulary(), architecture.MAX_TOKENS)
    tokenizer = Tokenizer(tmp_path / "tokenizer", rows, architecture.MAX_TOKENS)
    first = Clock(tmp_path / "clock.json", 60.0)
    drawn, tables = timed._draw(config, first, 500, tokenizer)
    first.save()
    resumed = Clock(tmp_path / "clock.json", 60.0)
    began = time.monotonic()
    again, same = timed._draw(replace(config, resume=True), resumed, 500, tokenizer)
    assert again == drawn == PictureSet(3, 30, 0.35) and int(same.count) == 30
    for one, other in zip(tables, same, strict=True):
        np.testing.assert_array_equal(one, other)
    passed, counted = time.monotonic() - began, resumed.used - json.loads((tmp_path / "clock.json").read_text())["used"]
    assert counted < 0.7 * passed


def test_minutes_change_the_defaults_of_the_command_line():
    read = read_config(["--minutes", "8", "--unet-batch", "100", "--vae-channels", "64", "64", "128"])
    assert (read.minutes, read.unet_batch, read.vae_batch) == (8, 100, TIMED_DEFAULTS["vae_batch"])
    assert read.vae_channels == (64, 64, 128)
    assert read_config(["--seed", "4"]) == BaseConfig(seed=4)


@pytest.mark.parametrize("wrong", [{"start": "pocket"}, {"report": True}])
def test_minutes_are_for_new_models(wrong):
    with pytest.raises(UserError, match="--minutes trains a new model"):
        BaseConfig(minutes=8, **wrong)


def test_channels_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="--unet-channels takes 3 multiples of 8, not 64 190 192"):
        train_base(timed_config(1, out=tmp_path, unet_channels=(64, 190, 192)))
    with pytest.raises(UserError, match="leave out the channels"):
        BaseConfig(start="pocket", vae_channels=(64, 64, 64))
