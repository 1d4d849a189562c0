"""The judge's training pictures: the labels say what was drawn, and do not depend on the order of drawing."""

import json

import numpy as np
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.pocket.world import draw, scenes, styles
from blocklora_jax.pocket.world.specs import CLASSES, PLAIN, SCENES, STYLES, Individual
from train.base import lineup

CAST, COUNT = 44, 120


def test_labels_say_what_each_picture_shows():
    labels = lineup.label_pictures(3, CAST, COUNT)
    assert {len(lineup.make_spec(3, CAST, i)[0].subjects) for i in range(COUNT)} == {1, 2}
    by_number = {number: key for key, number in lineup.TRAIT_VALUES.items()}
    for i in range(COUNT):
        spec, shown = lineup.make_spec(3, CAST, i)
        assert i % CAST in shown
        assert [j for j in labels.subjects[i] if j >= 0] == shown
        for subject, individual in zip(spec.subjects, shown, strict=True):
            class_name, *keys = [by_number[n] for n in labels.traits[individual] if n >= 0]
            assert class_name == (subject.class_name, "", "")
            # The numbers are enough to make the individual again.
            assert Individual(keys[0][0], tuple((trait, value) for _, trait, value in keys)) == subject
        assert {name for name, here in zip(CLASSES, labels.classes[i], strict=True) if here} == {
            subject.class_name for subject in spec.subjects
        }
        assert ((*SCENES, PLAIN)[labels.scene[i]], STYLES[labels.style[i]]) == (spec.scene, spec.style)
        assert lineup.SCENE_VARIANTS[spec.scene, spec.scene_traits] == labels.scene_variant[i]
        assert lineup.STYLE_VARIANTS[spec.style, spec.style_traits] == labels.style_variant[i]


def test_there_is_a_number_for_every_variant():
    assert sorted(lineup.SCENE_VARIANTS.values()) == list(range(132))
    for choices, variants in ((scenes.TRAITS, lineup.SCENE_VARIANTS), (styles.TRAITS, lineup.STYLE_VARIANTS)):
        for name, traits in choices.items():
            expected = np.prod([len(set(options)) for options in traits.values()], dtype=int)
            assert sum(key[0] == name for key in variants) == expected


def test_an_individual_has_several_pictures_and_never_stands_beside_one_of_its_class():
    specs = [lineup.make_spec(0, CAST, i)[0] for i in range(COUNT)]
    first = lineup.draw_individual(0, 5)
    about = [spec for i, spec in enumerate(specs) if i % CAST == 5]
    assert len(about) == 3
    assert all(first in spec.subjects for spec in about)
    assert all(len({s.class_name for s in spec.subjects}) == len(spec.subjects) for spec in specs)
    assert first.traits != lineup.draw_individual(1, 5).traits


def test_pictures_are_drawn_once_and_kept(tmp_path):
    pictures = lineup.draw_lineup(tmp_path, 3, CAST, 6, workers=1)
    np.testing.assert_array_equal(pictures[4], draw(lineup.make_spec(3, CAST, 4)[0]))
    before = (tmp_path / "pictures.npy").stat().st_mtime_ns
    again = lineup.draw_lineup(tmp_path, 3, CAST, 6, workers=1)
    assert (tmp_path / "pictures.npy").stat().st_mtime_ns == before
    np.testing.assert_array_equal(again, pictures)


def test_pictures_of_another_seed_are_not_taken(tmp_path):
    lineup.draw_lineup(tmp_path, 0, CAST, 6, workers=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for seed, cast in ((1, CAST), (0, CAST - 1)):
        with pytest.raises(UserError, match=rf"the pictures of --seed 0 --judge-individuals 44, not of --seed {seed} "):
            lineup.draw_lineup(tmp_path, seed, cast, 6, workers=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_of_which_nothing_is_recorded_are_drawn_again(tmp_path):
    lineup.draw_lineup(tmp_path, 0, CAST, 6, workers=1)
    (tmp_path / "pictures.json").unlink()
    (tmp_path / lineup.SOFTENED_FILE).touch()
    pictures = lineup.draw_lineup(tmp_path, 1, CAST, 6, workers=1)
    np.testing.assert_array_equal(pictures[4], draw(lineup.make_spec(1, CAST, 4)[0]))
    assert not (tmp_path / lineup.SOFTENED_FILE).exists()
    assert json.loads((tmp_path / "pictures.json").read_text()) == "--seed 1 --judge-individuals 44"
