"""Differential Output Preservation: on the concept's pictures, captions of the class give the output of the base."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from concept_builders import make_config, make_trainable, write_pictures

from blocklora_jax.diffusion.models import with_token_rows
from merge.compose import compose
from train.concept.data import load_concept_data
from train.concept.prepare import prepare_concept
from train.concept.prompts import captions_for, class_caption
from train.concept.state import init_state, make_optimizer
from train.concept.step import make_step

CAPTIONS = ["a photo of <ada> man in the snow", "a drawing of an <ada> man", "<ada> and a dog on the beach"]
CLASS_CAPTIONS = ["a photo of a man in the snow", "a drawing of a man", "a man and a dog on the beach"]


@pytest.mark.parametrize(
    ("noun", "caption", "expected"),
    [
        ("man", "a photo of <ada> man on a beach", "a photo of a man on a beach"),
        ("man", "<ada> man", "a man"),
        ("man", "a photo of <ada>", "a photo of a man"),
        ("man", "a photo of <ada> and a dog", "a photo of a man and a dog"),
        ("man", "a photo of a dog and <ada> man", "a photo of a dog and a man"),
        ("man", "<ada> man and <ada> man's dog", "a man and a man's dog"),
        ("man", "a photo of <ada>'s dog", "a photo of a man's dog"),
        ("man", "snow, <Ada> Man", "snow, a man"),
        ("man", "a photo of a smiling <ada> man", "a photo of a smiling man"),
        ("man", "the <ada> man", "the man"),
        ("man", "a banana <ada> man", "a banana man"),
        ("owl", "a <ada> owl", "an owl"),
        ("owl", "a photo of <ada> owl", "a photo of an owl"),
        ("man", "an <ada> man", "a man"),
        ("old man", "a photo of a <ada> old man", "a photo of an old man"),
        ("man", "a photo of <ada> manor", "a photo of a man manor"),
        ("man", "a photo of a dog", "a photo of a dog"),
    ],
)
def test_people_and_things_become_their_class(noun, caption, expected):
    assert class_caption(caption, make_config(class_noun=noun, kind="person").called) == expected


@pytest.mark.parametrize(
    ("kind", "noun", "caption", "expected"),
    [
        ("style", "mosaic", "a <ada> mosaic of a dog", "a mosaic of a dog"),
        ("style", "oil painting", "a <ada> oil painting of a dog", "an oil painting of a dog"),
        ("scene", "garden", "a dog in a <ada> garden", "a dog in a garden"),
        ("scene", "space", "a dog in <ada> space", "a dog in space"),
        ("scene", "snow", "a dog in the <ada> snow", "a dog in the snow"),
    ],
)
def test_scenes_and_styles_keep_the_articles_that_they_have(kind, noun, caption, expected):
    assert class_caption(caption, make_config(class_noun=noun, kind=kind).called) == expected


@pytest.mark.parametrize("kind", ["person", "object", "scene", "style"])
def test_default_captions_become_correct_captions_of_the_class(kind):
    config = make_config(class_noun="owl", kind=kind)
    found = [class_caption(caption, config.called) for caption in captions_for(config.called)]
    expected = {"style": ["an owl"], "scene": ["a photo of an owl"]}
    assert found == expected.get(kind, ["a photo of an owl", "a picture of an owl"])


@pytest.fixture
def pictures(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 3)
    for index, caption in enumerate(CAPTIONS):
        (folder / f"{index}.txt").write_text(caption)
    return folder


def preserving(pictures, **changes):
    return make_config(images=pictures, erase="preserve", kind="person", blocks=0, batch=3, **changes)


def test_every_view_has_its_picture_s_class_caption(tiny_sd, pictures):
    data = load_concept_data(preserving(pictures, flip=True), tiny_sd)
    assert data.prompts.texts == tuple(text for text in CLASS_CAPTIONS for _ in range(2))
    np.testing.assert_array_equal(data.prompts.ids, tiny_sd.tokenizer.encode(data.prompts.texts))
    # No concept's token, not even this concept's.
    assert data.prompts.ids.max() < tiny_sd.tokenizer.table_rows


def test_the_random_rows_repeat_the_rows_of_the_batch(tiny_sd, pictures):
    others = write_pictures(pictures.parent / "others", 2, size=(9, 9))
    config = preserving(pictures, random_batch=2, pure_noise=1.0, other_images=others)
    concept = prepare_concept(config, tiny_sd, None)
    for batch in map(concept.batch_at, range(4)):
        np.testing.assert_array_equal(batch.random_latents, batch.latents[:2])
        assert batch.random_row.tolist() == batch.row[:2].tolist() == [0, 1]
        assert not batch.random_is_noise.any()


def draw(key, row, offset, shape):
    """Timestep and noise of one row."""
    t_key, noise_key, offset_key = jax.random.split(jax.random.fold_in(key, row), 3)
    noise = jax.random.normal(noise_key, shape) + offset * jax.random.normal(offset_key, (1, 1, shape[-1]))
    return int(jax.random.randint(t_key, (), 0, 1000)), np.asarray(noise)


def test_the_loss_is_the_distance_to_the_base_on_the_same_noised_pictures(tiny_sd, pictures):
    config = preserving(pictures, layers="cross_kv+text_encoder", alpha=3.0, erase_weight=0.7, noise_offset=0.1)
    concept, optimizer = (
        prepare_concept(config, tiny_sd, None),
        make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen),
    )
    trainable, masks = make_trainable(config)
    state = init_state(trainable, masks, optimizer, jax.random.key(11))._replace(step=np.int32(7))
    batch = concept.batch_at(7)
    step = make_step(
        tiny_sd.models, tiny_sd.schedule, optimizer, adapter=config.adapter, erasure=config.erasure, loss=config.loss
    )

    def only_losses(state, batch, params):
        metrics = step(state, batch, params)[1]
        return {name: metrics[name] for name in ("loss", "diffusion_loss", "erase_loss")}

    mapped = jax.jit(jax.vmap(only_losses, in_axes=(None, 0, None), axis_name="data"))
    found = mapped(state, jax.tree.map(lambda x: x[None], batch), tiny_sd.params)

    adapted = compose(tiny_sd.params, [concept.to_adapter(trainable)], check_base=False)
    alphas, key = tiny_sd.schedule.alphas_cumprod, jax.random.fold_in(jax.random.key(11), 7)
    data = load_concept_data(config, tiny_sd)
    rows = []
    for row, x0 in enumerate(batch.latents):
        picture = np.flatnonzero([np.array_equal(x0, latents) for latents in data.latents])[0]
        t, noise = draw(key, row, config.loss.noise_offset, x0.shape)
        rows.append((np.sqrt(alphas[t]) * x0 + np.sqrt(1 - alphas[t]) * noise, t, CLASS_CAPTIONS[picture]))
    noisy, timesteps, prompts = zip(*rows, strict=True)
    assert sorted(prompts) == sorted(CLASS_CAPTIONS)
    unet = jax.jit(lambda params, *inputs: tiny_sd.models.unet.apply({"params": params}, *inputs))
    outputs = []
    for params in (adapted, tiny_sd.params):
        text = with_token_rows(tiny_sd.models, params).text_encoders["text_encoder"]
        ids = jnp.asarray(tiny_sd.tokenizer.encode(prompts))
        states = jax.jit(text.apply)({"params": params["text_encoder"]}, ids)
        inputs = np.asarray(noisy, np.float32), np.asarray(timesteps), states
        outputs.append(np.asarray(unet(params["unet"], *map(jnp.asarray, inputs)), np.float64))
    expected = np.mean(np.square(outputs[0] - outputs[1]))
    assert expected > 0.01
    assert float(found["erase_loss"][0]) == pytest.approx(expected, rel=1e-4)  # fp32 sums in another order
    total = float(found["diffusion_loss"][0]) + 0.7 * expected
    assert float(found["loss"][0]) == pytest.approx(total, rel=1e-4)
