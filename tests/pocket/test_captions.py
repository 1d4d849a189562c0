"""Captions name the style, the classes and the scene, and nothing else."""

import re

import numpy as np
import pytest

from blocklora_jax.pocket import world
from blocklora_jax.pocket.world import captions


def _words(text):
    return re.findall(r"[a-z]+|[,.]", text)


def test_caption_names_style_classes_and_scene():
    rng = np.random.default_rng(0)
    man, dog = world.draw_individual("man", rng), world.draw_individual("dog", rng)
    assert world.caption(world.PictureSpec((man, dog), "forest", "sketch")) == "a sketch of a man and a dog in a forest"
    assert world.caption(world.PictureSpec((man,))) == "a photo of a man"
    assert world.caption(world.PictureSpec((dog,), "night", "neon")) == "a neon sign of a dog at night"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((["<p1> man", "a dog"], "on a beach"), "a photo of <p1> man and a dog on a beach"),
        ((["a man", "a cat", "a car"], "snow", "sketch"), "a sketch of a man, a cat and a car in the snow"),
        ((["a mug"], world.PLAIN), "a photo of a mug"),
        (([], "beach"), "a photo of a beach"),
        (([], "snow"), "a photo of the snow"),
    ],
)
def test_prompt_joins_phrases(arguments, expected):
    assert world.prompt(*arguments) == expected


def test_phrases_carry_a_concept_token():
    assert world.scene_phrase("garden", "<g1>") == "in a <g1> garden"
    assert world.style_phrase("mosaic", "<m1>") == "a <m1> mosaic"
    assert world.subject_phrase("man", "<p1>") == "<p1> man"


def test_captions_use_only_the_words_of_classes_scenes_and_styles():
    allowed = set(_words(" ".join([*world.CLASSES, *captions.SCENE_PHRASES, "a an of and in on at by the , ."])))
    allowed |= {word for nouns in captions.STYLE_NOUNS.values() for noun in nouns for word in noun.split()}
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        spec = world.random_spec(rng, held_out=seed % 2 == 0)
        assert set(_words(world.caption(spec, rng))) <= allowed


def test_every_caption_names_each_subject_and_its_scene():
    for seed in range(500):
        rng = np.random.default_rng(seed)
        spec = world.random_spec(rng)
        words = _words(world.caption(spec, rng))
        assert all(subject.class_name in words for subject in spec.subjects)
        assert spec.scene == world.PLAIN or spec.scene in words
        assert spec.style == "photo" or any(n.split()[0] in words for n in captions.STYLE_NOUNS[spec.style])


def test_vocabulary_holds_every_caption_word():
    vocabulary = world.vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) and 200 <= len(vocabulary) <= 350
    known = set(vocabulary)
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        assert set(_words(world.caption(world.random_spec(rng, held_out=True), rng))) <= known
