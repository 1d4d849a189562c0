"""The drawing program is a pure function of the specification, shows identity, and leaves out what is held out."""

import dataclasses

import numpy as np
import pytest

from blocklora_jax.pocket import world
from blocklora_jax.pocket.world.specs import CLASS_TRAITS


def _individual(name, seed):
    return world.draw_individual(name, np.random.default_rng(seed))


def test_same_spec_gives_same_picture():
    for seed in range(20):
        spec = world.random_spec(np.random.default_rng(seed), held_out=True)
        first, again = world.draw(spec), world.draw(dataclasses.replace(spec))
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", world.CLASSES)
def test_individuals_of_a_class_differ_clearly(name):
    pictures = [world.draw(world.PictureSpec((_individual(name, seed),), seed=3)).astype(float) for seed in range(6)]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
    # The mean difference in grey levels. A subject covers about half of the picture.
    assert min(gaps) > 2.5


@pytest.mark.parametrize("style", world.STYLES)
def test_every_style_draws_every_scene_and_changes_the_picture(style):
    subject = _individual("woman", 1)
    for scene in (world.PLAIN, *world.SCENES):
        plain = world.draw(world.PictureSpec((subject,), scene, "photo", 5))
        styled = world.draw(world.PictureSpec((subject,), scene, style, 5))
        assert styled.std() > 8
        assert (style == "photo") == bool((plain == styled).all())


def test_one_individual_in_two_scenes_differs_in_pixels():
    subject = _individual("dog", 2)
    pictures = [world.draw(world.PictureSpec((subject,), scene, seed=4)) for scene in ("beach", "night")]
    assert np.abs(pictures[0].astype(float) - pictures[1]).mean() > 10


def test_seed_moves_the_subject_and_the_scene():
    subject = _individual("mug", 2)
    pictures = [world.draw(world.PictureSpec((subject,), "beach", seed=seed)) for seed in (1, 2)]
    assert (pictures[0] != pictures[1]).mean() > 0.2


def test_each_trait_is_visible():
    for name, choices in CLASS_TRAITS.items():
        seen = set()
        for seed in range(60):
            subject = _individual(name, seed)
            before = world.draw(world.PictureSpec((subject,), seed=9))
            for trait, values in choices.items():
                if trait in seen:
                    continue
                other = values[seed % len(values)]
                traits = tuple((k, other if k == trait else v) for k, v in subject.traits)
                after = world.draw(world.PictureSpec((world.Individual(name, traits),), seed=9))
                if (before != after).any():
                    seen.add(trait)
            if seen == set(choices):
                break
        assert seen == set(choices), name


def test_larger_pictures_show_the_same_thing():
    spec = world.PictureSpec((_individual("robot", 0),), "room", seed=1)
    small, large = world.draw(spec, 64), world.draw(spec, 128)
    reduced = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(reduced - small).mean() < 6


def test_held_out_things_never_appear_in_base_training():
    specs = [world.random_spec(np.random.default_rng(seed)) for seed in range(1500)]
    assert {s.class_name for spec in specs for s in spec.subjects} == set(world.TRAIN_CLASSES)
    assert {spec.scene for spec in specs} == {world.PLAIN, *world.TRAIN_SCENES}
    assert {spec.style for spec in specs} == set(world.TRAIN_STYLES)
    assert not set(world.PEOPLE) & set(world.HELD_OUT_CLASSES)


def test_held_out_things_appear_when_asked_for():
    specs = [world.random_spec(np.random.default_rng(seed), held_out=True) for seed in range(1500)]
    assert {s.class_name for spec in specs for s in spec.subjects} == set(world.CLASSES)
    assert {spec.style for spec in specs} == set(world.STYLES)


def test_subject_counts_follow_their_shares():
    counts = np.bincount([len(world.random_spec(np.random.default_rng(s)).subjects) for s in range(2000)], minlength=4)
    # Four standard deviations of a share of 2000 draws are at most 0.045.
    np.testing.assert_allclose(counts / 2000, [0, 0.65, 0.3, 0.05], atol=0.045)


def test_sample_batch_is_the_same_in_pieces_and_with_workers():
    pictures, captions = world.sample_batch(7, 10, 12)
    for start, count in ((10, 5), (15, 7)):
        part, words = world.sample_batch(7, start, count)
        np.testing.assert_array_equal(part, pictures[start - 10 : start - 10 + count])
        assert words == captions[start - 10 : start - 10 + count]
    by_workers, words = world.sample_batch(7, 10, 12, workers=1)
    np.testing.assert_array_equal(by_workers, pictures)
    assert words == captions


def test_errors_name_unknown_names():
    with pytest.raises(ValueError, match="unknown class 'unicorn'; known are man"):
        world.draw_individual("unicorn", np.random.default_rng(0))
    with pytest.raises(ValueError, match="unknown scene 'moon'"):
        world.PictureSpec((), "moon")
    with pytest.raises(ValueError, match="dog: fur cannot be 'red'"):
        world.Individual("dog", (*(t for t in _individual("dog", 0).traits if t[0] != "fur"), ("fur", "red")))
    with pytest.raises(ValueError, match="dog lacks traits"):
        world.Individual("dog", ())
