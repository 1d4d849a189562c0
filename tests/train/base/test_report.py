"""The report: unseen individuals, captions that the base does not know, rates, and the printed text."""

from dataclasses import replace

import numpy as np
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.pocket.judge import CLASS_NAMES, SCENE_NAMES, STYLE_NAMES, Judge, JudgeConfig, Labels, load_judge
from blocklora_jax.pocket.world import sample_batch
from blocklora_jax.pocket.world.specs import CLASSES, PictureSpec, draw_individual
from train.base import identity, lineup, report
from train.base.config import BaseConfig
from train.base.pictures import PictureSet


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def _spec(names, scene="beach", style="photo"):
    rng = np.random.default_rng(0)
    return PictureSpec(tuple(draw_individual(name, rng) for name in names), scene, style)


def _labels(classes, scene, style):
    """Labels of one picture with these class probabilities, and with probability 1 for a scene and a style."""
    row = np.array([classes.get(name, 0.01) for name in CLASS_NAMES])
    pick = lambda names, name: np.array([float(n == name) for n in names])
    return Labels(row[None], pick(SCENE_NAMES, scene)[None], pick(STYLE_NAMES, style)[None])


@pytest.mark.parametrize(
    ("names", "classes", "there"),
    [
        (("dog",), {"dog": 0.4, "cat": 0.3}, True),
        (("dog",), {"dog": 0.8, "cat": 0.9}, False),
        (("dog", "man"), {"dog": 0.9, "man": 0.6, "cat": 0.5}, True),
        (("dog", "man"), {"dog": 0.9, "man": 0.4}, False),
        (("dog", "man"), {"dog": 0.9, "man": 0.7, "cat": 0.8}, False),
    ],
)
def test_one_class_is_recognised_if_it_is_most_probable_and_two_if_both_are_probable(names, classes, there):
    assert report.recognise(_labels(classes, "beach", "photo"), [_spec(names)])["classes"].tolist() == [there]


def test_scene_and_style_are_recognised_by_the_most_probable():
    hits = report.recognise(_labels({"dog": 1}, "snow", "sketch"), [_spec(("dog",), "snow", "neon")])
    assert (hits["scene"].tolist(), hits["style"].tolist()) == ([True], [False])


def test_known_captions_are_those_of_the_bases_pictures():
    _, captions = sample_batch(7, 0, 40)
    known = report.known_captions([PictureSet(7, 30, 0.35), PictureSet(7, 40, 0.35)])
    for words, spec in zip(captions, PictureSet(7, 40, 0.35).specs(), strict=True):
        names, scene, _ = key = report.caption_key(spec)
        assert key in known and all(name in words for name in names) and (scene == "plain" or scene in words)
    rng = np.random.default_rng(0)
    new = [report.caption_key(report.new_caption(known, 2, rng)) for _ in range(20)]
    assert not set(new) & known
    assert all(len(names) == 2 for names, _, _ in new)


def test_unseen_individuals_are_not_among_those_the_judge_learnt():
    training = {"seed": 4, "individuals": 300}
    untrained = Judge(config=JudgeConfig(), params={}, training=training)
    cast = identity.draw_unseen(untrained, 2, 36)
    assert len(set(cast)) == 36
    assert [member.class_name for member in cast] == [*CLASSES, *CLASSES]
    # For a judge that was trained on the first of them, others would be drawn.
    learnt = {lineup.draw_individual(4, i) for i in range(300)}
    assert not learnt & set(cast)


def test_drawing_unseen_individuals_skips_those_that_were_learnt(monkeypatch):
    judge = Judge(config=JudgeConfig(), params={}, training={"seed": 0, "individuals": 18})
    first = identity.draw_unseen(judge, 2, 18)
    monkeypatch.setattr(identity.lineup, "draw_individual", lambda seed, i: first[i])
    assert not set(first) & set(identity.draw_unseen(judge, 2, 18))


def test_identity_of_the_packaged_judge_is_far_above_chance(judge):
    measured = identity.measure_identity(judge, 5, 72)
    assert measured["top1"] > 0.8
    assert measured["cosine_same"] > measured["cosine_same_class"] + 0.3
    assert set(measured["top1_by_class"]) == set(CLASSES)
    assert measured == identity.measure_identity(judge, 5, 72)


def test_variants_are_told_by_their_references(judge):
    measured = identity.measure_variants(judge, "style", 3)
    assert measured["variants"] == 9 + 4 + 4
    # Chance is 6 %. The README of the weights says which variants are hard.
    assert measured["top1"] > 0.3
    assert measured["cosine_same"] > measured["cosine_other"]


def test_captions_are_measured_on_the_generated_pictures(judge):
    """A base that draws is as good as drawings. A base that always makes the same picture has low rates."""
    known = report.known_captions([PictureSet(0, 50, 0.35)])
    perfect = report.measure_captions(judge, report.draw_all, known, 1, (16, 8))
    assert perfect["one"]["drawn"]["classes"] > 0.9
    assert min(perfect["one"]["ratio"].values()) > 0.85
    same = lambda specs: report.draw_all(
        [replace(_spec(("car",), "city", "photo"), seed=i) for i, _ in enumerate(specs)]
    )
    poor = report.measure_captions(judge, same, known, 1, (16, 8))
    share = np.mean([name == "car" for name in _asked(poor)])
    assert poor["one"]["generated"]["classes"] == pytest.approx(share)
    assert poor["two"]["generated"]["classes"] == 0
    # The drawings do not depend on the base.
    assert poor["one"]["drawn"] == perfect["one"]["drawn"]


def _asked(measured):
    return [name for name, (_, number) in measured["by_name"]["generated"]["classes"].items() for _ in range(number)]


def test_text_shows_rates_and_whether_minimum_values_are_reached(judge):
    captions = report.measure_captions(judge, report.draw_all, set(), 1, (6, 4))
    captions["one"]["ratio"]["scene"] = 0.6234
    identity = {"individuals": 10, "top1": 0.912, "top1_of_class": 0.95, "top1_in_pairs": 0.7, "cosine_same": 0.8}
    identity |= {
        "cosine_in_pairs": 0.5,
        "cosine_same_class": 0.1,
        "cosine_other_class": 0.0,
        "top1_by_class": {"man": 1.0},
    }
    variants = {"scene": {"variants": 93, "top1": 0.5, "cosine_same": 0.9, "cosine_other": 0.4321}}
    measured = {"identity": identity, "variants": variants, "captions": captions}
    text = report.as_text({"model": "pocket", "seed": 1, "seconds": 2.0, **measured})
    assert "scene variants: top-1 50.0% among 93" in text and "0.432" in text
    assert "top-1 91.2% (>= 85%) among 10 unseen" in text
    assert "62.3% (< 90%)" in text
    assert all(name in text for name in (*CLASS_NAMES, *SCENE_NAMES, *STYLE_NAMES))


def test_contradictory_calls_are_refused():
    with pytest.raises(UserError, match="one after the other"):
        BaseConfig(only_judge=True, report=True)
    with pytest.raises(UserError, match="--start pocket"):
        BaseConfig(only_judge=True)
