"""Latents, prompts, and batches as a function of (seed, step)."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from concept_builders import batches_of, make_config, write_pictures
from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.prompts.random_prompts import RandomPrompts
from train.concept.data import ConceptData, encode_images, load_concept_data
from train.concept.images import crop_square, image_array, read_pictures
from train.concept.prompts import captions_for, preview_prompts, prompt_words


def numbered(count: int = 5, prompts: int = 7) -> ConceptData:
    """Data in which every latent is filled with its number."""
    numbers = np.arange(count, dtype=np.float32)[:, None, None, None]
    latents = np.broadcast_to(numbers, (count, 2, 2, 4)).copy()
    ids = np.arange(prompts, dtype=np.int32)[:, None]
    pool = RandomPrompts(ids, np.arange(prompts, dtype=np.int32), ("x",) * prompts)
    weights, captions = np.ones((count, 2, 2, 1), np.float32), np.arange(count, dtype=np.int32)[:, None]
    negative_tokens = {"text_encoder": np.arange(prompts, dtype=np.float32)[:, None, None]}
    return ConceptData(latents, weights, captions, latents, pool, negative_tokens)


def same(one, other) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.mark.parametrize(("rows", "count"), [(2, 5), (5, 5), (12, 5), (3, 1)])
def test_every_epoch_covers_all_pictures_once(rows, count):
    batch_at = batches_of(make_config(batch=rows), numbered(count))
    chosen = np.concatenate([batch_at(step).ids[:, 0] for step in range(count * 6)])
    epochs = chosen[: len(chosen) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(count), epochs.shape))
    if count > 1:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_batch_is_a_function_of_seed_and_step():
    config, data = make_config(batch=3, random_batch=4), numbered()
    forward, backward = batches_of(config, data), batches_of(config, data)
    batches = [forward(step) for step in range(4)]
    assert all(same(backward(step), batches[step]) for step in (3, 0, 2, 1))
    assert not same(batches[0], batches[1])
    assert not same(batches_of(make_config(batch=3, random_batch=4, seed=1), data)(0), batches[0])


def test_rows_belong_together_and_are_numbered():
    batch = batches_of(make_config(batch=3, random_batch=4), numbered())(0)
    np.testing.assert_array_equal(batch.latents[:, 0, 0, 0], batch.ids[:, 0])
    assert batch.row.tolist() == [0, 1, 2]
    assert batch.random_row.tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(batch.random_ids[:, 0], batch.random_tokens["text_encoder"][:, 0, 0])
    assert batch.text is None


def test_random_rows_are_noise_in_the_share_asked_for():
    for share, expected in ((0.0, 0), (1.0, 1)):
        batch = batches_of(make_config(random_batch=50, pure_noise=share), numbered())(0)
        assert batch.random_is_noise.mean() == expected
    batch_at = batches_of(make_config(random_batch=500, pure_noise=0.3), numbered())
    # Four standard deviations of 500 draws.
    assert abs(batch_at(0).random_is_noise.mean() - 0.3) < 0.082


def test_no_erasure_has_no_random_rows():
    batch = batches_of(make_config(erase="none"), numbered())(0)
    assert batch.random_latents.shape == (0, 2, 2, 4)
    assert batch.random_ids.shape == (0, 1)


def test_cached_states_take_the_place_of_ids():
    data = numbered()
    states = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2), np.float32)
    pool = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2), np.float32)
    config = make_config(batch=3)
    plain = batches_of(config, data)(0)
    batch = batches_of(config, data._replace(text=TextOutput(states), random_text=TextOutput(pool)))(0)
    assert (batch.ids, batch.random_ids, batch.random_tokens) == (None, None, None)
    np.testing.assert_array_equal(batch.text.states[:, 0, 0], plain.ids[:, 0])
    np.testing.assert_array_equal(batch.random_text.states[:, 0, 0], plain.random_ids[:, 0])


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pictures", 3)


def test_pictures_become_scaled_latents_and_captions_become_ids(tiny_sd, folder):
    (folder / "1.txt").write_text("a drawing of <ada> man in the snow")
    config = make_config(images=folder)
    data = load_concept_data(config, tiny_sd)
    pictures = [crop_square(picture, 16) for picture in read_pictures(folder)]
    params, vae = tiny_sd.params["vae"], tiny_sd.models.vae
    for i, picture in enumerate(pictures):
        mean, _ = vae.apply({"params": params}, jnp.asarray(image_array(picture)[None]), method="encode")
        expected = mean[0] * vae.config.scaling_factor
        np.testing.assert_allclose(data.latents[i], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert data.weights.shape == (3, 8, 8, 1)
    templates = captions_for(config.called)
    captions = [templates[0], "a drawing of <ada> man in the snow", templates[0]]
    np.testing.assert_array_equal(data.ids, tiny_sd.tokenizer.encode(captions, {"<ada>": 2}))
    np.testing.assert_array_equal(data.random_latents, data.latents)
    assert len(data.prompts.ids) == len(data.prompts.texts) == 1024


def test_flips_and_crops_are_separate_views(tiny_sd, folder, tmp_path):
    flipped = load_concept_data(make_config(images=folder, flip=True), tiny_sd)
    assert flipped.latents.shape[0] == 6
    np.testing.assert_array_equal(flipped.ids[0], flipped.ids[1])
    assert np.any(flipped.latents[0] != flipped.latents[1])
    one = write_pictures(tmp_path / "one", 1)
    cropped = load_concept_data(make_config(images=one, crop=0.5), tiny_sd)
    assert len({latent.tobytes() for latent in cropped.latents}) == len(cropped.latents) == 8
    again = load_concept_data(make_config(images=one, crop=0.5), tiny_sd)
    np.testing.assert_array_equal(again.latents, cropped.latents)


def test_other_pictures_join_the_random_latents_only(tiny_sd, folder, tmp_path):
    others = write_pictures(tmp_path / "others", 2, (16, 16))
    data = load_concept_data(make_config(images=folder, other_images=others), tiny_sd)
    assert (len(data.latents), len(data.random_latents)) == (3, 5)
    np.testing.assert_array_equal(data.random_latents[3:], encode_images(tiny_sd, read_pictures(others)))


def test_a_concept_without_tokens_is_captioned_by_its_noun(tiny_sd, folder):
    (folder / "0.txt").write_text("a drawing of <ada> man")
    data = load_concept_data(make_config(images=folder, token_vectors=0), tiny_sd)
    np.testing.assert_array_equal(data.ids[0], tiny_sd.tokenizer.encode(["a drawing of man"])[0])
    assert data.ids.max() < tiny_sd.tokenizer.table_rows


def ids_of(tiny_sd, folder, **changes) -> list[list[int]]:
    return load_concept_data(make_config(images=folder, **changes), tiny_sd).ids.tolist()


@pytest.mark.parametrize("name", ["0.txt", "0.TXT"])
@pytest.mark.parametrize(
    "data",
    [
        "a photo of <ADA> man".encode("utf-8-sig"),
        "a photo of <Ada> man\r\n".encode("utf-16"),
        "\u200ba photo of\u00a0<a\u00adda> man".encode(),
    ],
)
def test_captions_of_any_editor_give_the_ids_of_the_visible_text(tiny_sd, tmp_path, data, name):
    folder = write_pictures(tmp_path, 1)
    (folder / name).write_bytes(data)
    expected = tiny_sd.tokenizer.encode(["a photo of <ada> man"], {"<ada>": 2}).tolist()
    assert ids_of(tiny_sd, folder) == expected
    plain = tiny_sd.tokenizer.encode(["a photo of man"]).tolist()
    assert ids_of(tiny_sd, folder, token_vectors=0) == plain


def test_a_portrait_whose_mask_is_at_the_top_is_not_ignored(tiny_sd, tmp_path):
    folder = write_pictures(tmp_path, 1, (16, 48))
    mask = Image.new("L", (16, 48), 0)
    mask.paste(255, (4, 0, 12, 8))
    mask.save(folder / "0.MASK.png")
    for changes in ({}, {"crop": 0.5, "flip": True}):
        weights = load_concept_data(make_config(images=folder, **changes), tiny_sd).weights
        assert all(weights.sum((1, 2, 3)) > 0)


def test_captions_and_masks_of_other_pictures_are_ignored(tiny_sd, folder, tmp_path):
    others = write_pictures(tmp_path / "others", 2)
    plain = load_concept_data(make_config(images=folder, other_images=others), tiny_sd).random_latents
    (others / "0.txt").write_bytes(b"\xe9 nobody reads this")
    Image.new("L", (3, 3), 0).save(others / "1.mask.png")
    found = load_concept_data(make_config(images=folder, other_images=others), tiny_sd).random_latents
    np.testing.assert_array_equal(found, plain)


def test_faults_in_captions_are_reported_before_anything_is_encoded(tiny_sd, folder, monkeypatch):
    monkeypatch.setattr("train.concept.encoded_pictures.PictureEncoder", None)
    (folder / "1.TXT").write_text("<ada> " + "dog " * 30)
    with pytest.raises(UserError, match="too long"):
        load_concept_data(make_config(images=folder), tiny_sd)
    (folder / "2.txt").write_text("a man \x1b[2J")
    with pytest.raises(UserError, match=r"2\.txt: the caption 'a man' lacks the token <ada>"):
        load_concept_data(make_config(images=folder), tiny_sd)


def test_a_broken_mask_ends_the_encoding_and_all_are_named(tiny_sd, folder, monkeypatch):
    encoded = []
    monkeypatch.setattr(
        "train.concept.encoded_pictures.PictureEncoder.add", lambda self, picture: encoded.append(picture.path.name)
    )
    for name in ("1.mask.png", "2.mask.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read 1\.mask\.png \(.*; 2\.mask\.png \("):
        load_concept_data(make_config(images=folder), tiny_sd)
    assert encoded == ["0.png"]


def test_a_broken_picture_among_others_is_skipped_and_named(tiny_sd, folder, monkeypatch):
    (folder / "1.txt").write_text("a drawing of <ada> man")
    (folder / "2.txt").write_text("a photo of <ada> man in the snow")
    config = make_config(images=folder, crop=0.5, flip=True)
    whole = load_concept_data(config, tiny_sd)
    assert whole.notes == "3 pictures"
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "3.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = load_concept_data(config, tiny_sd)
    assert data.notes == (
        "2 pictures, 2 skipped (1.png: damaged: cannot identify image file; 3.heic: HEIC needs pip install"
        ' "blocklora_jax[heic]")'
    )
    # The others keep their crops and captions.
    kept = np.r_[0:16, 32:48]
    np.testing.assert_array_equal(data.latents, whole.latents[kept])
    np.testing.assert_array_equal(data.ids, whole.ids[kept])
    np.testing.assert_array_equal(data.weights, whole.weights[kept])


def test_broken_pictures_among_other_pictures_are_skipped_and_named(tiny_sd, folder, tmp_path):
    others = write_pictures(tmp_path / "others", 2)
    config = make_config(images=folder, other_images=others)
    whole = load_concept_data(config, tiny_sd)
    assert whole.notes == "3 pictures; 2 other pictures"
    (others / "0.png").write_bytes(b"")
    data = load_concept_data(config, tiny_sd)
    assert data.notes == "3 pictures; 1 other picture, 1 skipped (0.png: damaged: cannot identify image file)"
    np.testing.assert_array_equal(data.random_latents, whole.random_latents[[0, 1, 2, 4]])


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (lambda f: (f / "0.txt").write_text("a photo of a man"), {}, r"0\.txt: the caption .* lacks the token <ada>"),
        (lambda f: (f / "0.txt").write_text("<ada> " + "dog " * 30), {}, "too long"),
        (lambda f: Image.new("L", (20, 16), 0).save(f / "0.mask.png"), {}, "black all over"),
        (lambda f: None, {"resolution": 15}, "--resolution 15 must be a multiple of 2"),
        (lambda f: None, {"other_images": "nothing"}, "no folder of pictures nothing"),
    ],
)
def test_errors_name_the_faulty_data(tiny_sd, folder, damage, changes, message):
    from pathlib import Path

    damage(folder)
    changes = {name: Path(value) if name == "other_images" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        load_concept_data(make_config(images=folder, **changes), tiny_sd)


@pytest.mark.parametrize("kind", ["person", "object", "scene", "style"])
@pytest.mark.parametrize(
    "words",
    [{}, {"random_subjects": ("owl",), "random_scenes": ("on a beach", "at night"), "random_styles": ("a photo of",)}],
)
def test_previews_show_the_concept_and_its_class_without_it(kind, words):
    config = make_config(kind=kind, preview_prompts=(), **words)
    prompts = preview_prompts(config.called, prompt_words(config.model, config.erasure))
    shown = [config.trigger in prompt for prompt in prompts]
    assert any(shown)
    assert shown[-1] is False
