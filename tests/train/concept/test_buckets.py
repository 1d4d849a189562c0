"""Aspect buckets: shapes of pictures, batches of one shape, and the order of the shapes."""

from __future__ import annotations

import os
import signal
from collections import Counter

import jax
import numpy as np
import pytest
from concept_builders import batches_of, make_config, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import train.concept.prepare
from blocklora_jax.errors import UserError
from blocklora_jax.prompts.random_prompts import RandomPrompts
from train.concept.batch_training import train_together
from train.concept.buckets import Buckets, bucket_sizes, nearest_bucket
from train.concept.data import ConceptData, load_concept_data
from train.concept.groups import train_concepts
from train.engine.loop import Interrupted

# Pixels of a latent, and how often the U-Net halves the latents.
STABLE_DIFFUSION, SDXL = (8, 3), (8, 2)


def test_at_512_pixels_the_shapes_are_those_of_other_trainers():
    assert bucket_sizes(512, *STABLE_DIFFUSION) == [
        (256, 1024), (320, 768), (384, 640), (448, 576), (512, 512), (576, 448), (640, 384), (704, 320), (768, 320),
        (832, 256), (896, 256), (960, 256), (1024, 256),
    ]  # fmt: skip


@given(st.sampled_from([STABLE_DIFFUSION, SDXL, (4, 2), (2, 0)]), st.integers(2, 130))
def test_shapes_have_at_most_the_pixels_of_the_square_and_sides_that_the_unet_can_halve(model, latents):
    downscale, halvings = model
    size = latents * downscale
    sizes = bucket_sizes(size, downscale, halvings)
    assert all(width * height <= size**2 for width, height in sizes)
    if sizes != [(size, size)]:
        multiple = downscale * 2**halvings
        assert all(side % multiple == 0 for shape in sizes for side in shape)


def test_a_picture_gets_the_shape_nearest_to_its_own():
    sizes = bucket_sizes(512, *STABLE_DIFFUSION)
    expected = {
        (3000, 4000): (448, 576), (4000, 3000): (576, 448), (1080, 1920): (384, 640), (999, 1000): (512, 512),
        (100, 9000): (256, 1024), (9000, 100): (1024, 256),
    }  # fmt: skip
    assert {picture: nearest_bucket(picture, sizes) for picture in expected} == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 40), st.integers(0, 3))
def test_each_shape_has_steps_in_proportion_to_its_pictures_and_knows_the_steps_before(counts, step, seed):
    buckets = Buckets.of([np.zeros((height + 1, 1)) for height, count in enumerate(counts) for _ in range(count)])
    shapes = [buckets.at(each, seed) for each in range(step + 1)]
    assert shapes[step][1] == sum(shape == shapes[step][0] for shape, _ in shapes[:step])
    total = sum(counts)
    whole = Counter(shape for shape, _ in shapes[: len(shapes) // total * total])
    assert all(whole[height + 1, 1] == len(shapes) // total * count for height, count in enumerate(counts))


def shaped(portraits: int, squares: int, others: int = 0) -> ConceptData:
    """Data in which every latent is filled with its number. Other pictures are portraits."""
    latents = [np.full((4, 2, 4), i, np.float32) for i in range(portraits)]
    latents += [np.full((3, 3, 4), i, np.float32) for i in range(portraits, portraits + squares)]
    ids = np.arange(7, dtype=np.int32)[:, None]
    prompts = RandomPrompts(ids, ids[:, 0], ("x",) * 7)
    captions = np.arange(portraits + squares, dtype=np.int32)[:, None]
    negative_tokens = {"text_encoder": np.zeros((7, 1, 1), np.float32)}
    more = [np.full((4, 2, 4), 100 + i, np.float32) for i in range(others)]
    weights = [np.ones_like(each[..., :1]) for each in latents]
    return ConceptData(latents, weights, captions, [*latents, *more], prompts, negative_tokens)


def test_a_batch_has_pictures_of_one_shape_and_random_rows_of_the_same():
    batch_at = batches_of(make_config(batch=2, random_batch=40), shaped(3, 2, others=1))
    seen = set()
    for step in range(10):
        batch = batch_at(step)
        shape = batch.latents.shape[1:]
        assert batch.weights.shape[1:] == (*shape[:2], 1)
        assert batch.random_latents.shape[1:] == shape
        np.testing.assert_array_equal(batch.latents[:, 0, 0, 0], batch.ids[:, 0])
        seen |= {(shape, number) for number in batch.random_latents[:, 0, 0, 0].tolist()}
    portraits = {((4, 2, 4), number) for number in (0, 1, 2, 100)}
    assert seen == portraits | {((3, 3, 4), number) for number in (3, 4)}


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_all_pictures_are_used_equally_often(rows):
    batch_at = batches_of(make_config(batch=rows), shaped(3, 2))
    used = Counter(np.concatenate([batch_at(step).ids[:, 0] for step in range(5 * 6)]).tolist())
    assert used == dict.fromkeys(range(5), 6 * rows)


def test_a_step_can_be_asked_for_alone():
    forward, backward = (batches_of(make_config(batch=3), shaped(3, 4)) for _ in range(2))
    batches = {step: forward(step) for step in range(9)}
    for step in (8, 2, 5):
        jax.tree.map(np.testing.assert_array_equal, backward(step), batches[step])


@pytest.fixture
def mixed(tmp_path):
    """Two portraits and a landscape."""
    folder = write_pictures(tmp_path / "mixed", 3, (20, 36))
    Image.open(folder / "1.png").resize((60, 30)).save(folder / "1.png")
    return folder


def test_pictures_keep_their_shape(tiny_sd, mixed, tmp_path):
    others = write_pictures(tmp_path / "others", 1, (50, 20))
    data = load_concept_data(make_config(images=mixed, aspect_buckets=True, other_images=others), tiny_sd)
    downscale = tiny_sd.models.vae.config.downscale
    shapes = [(each.shape[1] * downscale, each.shape[0] * downscale) for each in data.random_latents]
    assert [width < height for width, height in shapes] == [True, False, True, False]
    # The other picture, which is still wider, gets a shape that pictures of the concept have.
    assert shapes[0] == shapes[2] and shapes[1] == shapes[3]
    assert all(width * height <= tiny_sd.image_size**2 for width, height in shapes)
    (wide, tall) = shapes[1], shapes[0]
    sizes = f"2 of {tall[0]} x {tall[1]}, 1 of {wide[0]} x {wide[1]}"
    assert data.notes == f"3 pictures in 2 shapes ({sizes}); 1 other picture"
    assert [each.shape[:2] for each in data.weights] == [each.shape[:2] for each in data.latents]


def test_a_run_with_several_shapes_resumes_bit_for_bit(tiny_sd, mixed, tmp_path, monkeypatch, capsys):
    def config(name: str, **changes):
        return make_config(
            images=mixed, aspect_buckets=True, out=tmp_path / name, previews=False, save_every=2, **changes
        )

    [whole] = train_together([config("whole")], tiny_sd, None, tmp_path / "whole")
    assert "<ada>: 3 pictures in 2 shapes" in capsys.readouterr().err
    make_batches, shapes = train.concept.prepare.make_batches, set()

    def stopping(*arguments):
        batch_at = make_batches(*arguments)

        def stop_at_third(step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            shapes.add(batch_at(step).latents.shape)
            return batch_at(step)

        return stop_at_third

    monkeypatch.setattr(train.concept.prepare, "make_batches", stopping)
    with pytest.raises(Interrupted):
        train_together([config("parts")], tiny_sd, None, tmp_path / "parts")
    monkeypatch.setattr(train.concept.prepare, "make_batches", make_batches)
    [parts] = train_together([config("parts", resume=True)], tiny_sd, None, tmp_path / "parts")
    assert len(shapes) == 2
    assert parts.read_bytes() == whole.read_bytes()


def test_pictures_of_one_shape_are_one_array(tiny_sd, tmp_path):
    square = write_pictures(tmp_path, 3, (20, 20))
    plain, bucketed = (load_concept_data(make_config(images=square, aspect_buckets=b), tiny_sd) for b in (False, True))
    np.testing.assert_array_equal(bucketed.latents, plain.latents)
    np.testing.assert_array_equal(bucketed.weights, plain.weights)


def test_concepts_with_several_shapes_do_not_train_in_one_program(tiny_sd, tmp_path):
    message = "must have pictures of one shape .* with --at-once 1"
    configs = [make_config(token=token, out=tmp_path / token[1], aspect_buckets=True) for token in ("<a>", "<b>")]
    with pytest.raises(UserError, match=message):
        train_concepts(configs, tmp_path / "groups", 2, "cpu")
    with pytest.raises(UserError, match=message):
        train_together(configs, tiny_sd, None, tmp_path)
