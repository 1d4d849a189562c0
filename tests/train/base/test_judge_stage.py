"""Training the judge: batches, augmentation, learning in a few steps, and exact resuming."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.vae import AutoencoderKL
from blocklora_jax.pocket.judge import Judge, JudgeConfig, JudgeNetwork
from blocklora_jax.pocket.world import draw
from train.base import judge as stage
from train.base import softness
from train.base.lineup import label_pictures, make_spec, number_traits
from train.engine.loop import LoopConfig, run_loop

CAST = 22
VAE = VAEConfig.from_json(
    {
        "block_out_channels": [8, 8], "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4, "sample_size": 64,
    },
    "test",
)  # fmt: skip


@pytest.fixture(scope="module")
def vae():
    return VAE, AutoencoderKL(VAE).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


def test_batch_holds_each_pictures_own_individuals_among_others():
    labels = label_pictures(0, CAST, 4 * CAST)
    pictures = np.arange(4 * CAST, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    softened = 255 - pictures[:: stage.SOFTENED]
    batch = stage.make_batch(pictures, softened, labels, 1, 5, 12)
    assert len(np.unique(batch.traits, axis=0)) == len(batch.traits) == CAST
    values = batch.pictures[:, 0, 0, 0]
    numbers = np.where(values > 4 * CAST, 255 - values, values)
    assert (values != numbers).any() and (numbers[values != numbers] % stage.SOFTENED == 0).all()
    for row, number in zip(batch.target, numbers, strict=True):
        shown = [labels.traits[i] for i in labels.subjects[number] if i >= 0]
        np.testing.assert_allclose(row.sum(), 1)
        assert {tuple(batch.traits[i]) for i in np.flatnonzero(row)} == {tuple(traits) for traits in shown}
        spec = make_spec(0, CAST, int(number))[0]
        things = [(subject.class_name, subject.traits) for subject in spec.subjects]
        things += [(spec.scene, spec.scene_traits), (spec.style, spec.style_traits)]
        expected = [n for thing in things for n in number_traits(*thing)]
        assert sorted(expected) == np.flatnonzero(batch.values[list(numbers).index(number)]).tolist()
    np.testing.assert_array_equal(batch.scene, labels.scene[numbers])
    for ours, again in zip(batch, stage.make_batch(pictures, softened, labels, 1, 5, 12), strict=True):
        np.testing.assert_array_equal(ours, again)


def test_augmentation_softens_and_keeps_colours():
    picture = (
        np.asarray(Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 50).convert("RGB"), np.float32) / 127.5 - 1
    )
    augmented = np.asarray(softness.augment(jnp.asarray(np.stack([picture] * 64)), jax.random.key(0)))
    means = augmented.mean((1, 2))
    assert np.abs(means - picture.mean((0, 1))[None]).max() < 0.09
    # The picture with the least contrast is blurred about as much as by Pillow's blur of one pixel.
    contrast = lambda x: np.abs(np.diff(x[..., 1], axis=-1)).mean()
    blurred = Image.fromarray(((picture + 1) * 127.5).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    softest = min(contrast(a) for a in augmented)
    assert contrast(np.asarray(blurred, np.float32) / 127.5 - 1) * 0.8 < softest < contrast(picture) * 0.8


def test_blur_is_a_binomial_of_both_axes_and_keeps_flat_pictures():
    point = np.zeros((1, 5, 5, 1), np.float32)
    point[0, 2, 2] = 1
    expected = np.outer([1, 2, 1], [1, 2, 1]) / 16
    np.testing.assert_allclose(np.asarray(softness._blur(jnp.asarray(point)))[0, 1:4, 1:4, 0], expected, atol=1e-7)
    np.testing.assert_allclose(np.asarray(softness._blur(jnp.ones((1, 4, 4, 3)))), 1, atol=1e-7)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A function that trains a small judge in its own folder."""
    small = functools.partial(JudgeConfig, widths=(8, 8), depths=(1, 1), subject_size=16)
    monkeypatch.setattr(stage, "JudgeConfig", small)
    monkeypatch.setattr(stage, "draw_lineup", draw_here)
    monkeypatch.setattr(stage, "soften", lambda config, params, pictures, path: pictures)  # it has its own test

    def run(folder, steps, resume=False, rate=1e-2, start=None):
        (tmp_path / folder).mkdir(exist_ok=True)
        loop = LoopConfig(steps=steps, save_every=3, log_every=1, resume=resume)
        return stage.train_judge((VAE, {}), tmp_path / folder, loop, 8, rate, 0, CAST, start)

    return run


@functools.cache
def draw_here(folder, seed, cast, count):
    return np.stack([draw(make_spec(seed, cast, number)[0]) for number in range(count)])


def test_training_learns_and_resumes_exactly(train, tmp_path, monkeypatch):
    whole = train("whole", 8)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "top1", *stage.WEIGHTS} <= set(lines[0])
    assert lines[-1]["loss"] < lines[0]["loss"]
    monkeypatch.setattr(
        stage, "run_loop", lambda loop, *rest, **names: run_loop(replace(loop, steps=3), *rest, **names)
    )
    train("parts", 8)
    monkeypatch.setattr(stage, "run_loop", run_loop)
    parts = train("parts", 8, resume=True)
    for ours, theirs in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_training_continues_from_a_judge(train):
    config = stage.JudgeConfig()
    params = JudgeNetwork(config).init(jax.random.key(7), jnp.zeros((1, 64, 64, 3)))["params"]
    first = Judge(config=config, params=params, training={"seed": 7})
    kept = train("kept", 2, rate=0.0, start=first)
    for ours, theirs in zip(jax.tree.leaves(kept.params), jax.tree.leaves(first.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert kept.training["before"] == first.training


def test_softened_pictures_are_those_that_the_autoencoder_reconstructs(vae, tmp_path):
    pictures = draw_here(None, 0, CAST, 3)
    softened = softness.soften(*vae, pictures, tmp_path / "softened.npy")
    model, images = AutoencoderKL(VAE), jnp.asarray(pictures, jnp.float32) / 127.5 - 1
    mean, _ = model.apply({"params": vae[1]}, images, method="encode")
    expected = np.asarray(model.apply({"params": vae[1]}, mean, method="decode"))
    # Pixels are rounded to whole numbers, and 127.5 of them are 1.
    np.testing.assert_allclose(softened / 127.5 - 1, np.clip(expected, -1, 1), atol=0.6 / 127.5)
    np.testing.assert_array_equal(softness.soften(VAE, {}, pictures, tmp_path / "softened.npy"), softened)
