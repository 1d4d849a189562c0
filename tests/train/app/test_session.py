"""The session: one program draws with any concepts and weights, and draws what the library draws."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from app_builders import add_concepts, make_session
from token_side_builders import WORDS

import merge
import train.app.session
from blocklora_jax.diffusion.sampling import Sampling
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter

SAMPLING = Sampling(steps=2)
PROMPT = "a photo of <ada> man"


@pytest.fixture
def session(tiny_sd, tiny_folder, tmp_path):
    session = make_session(tiny_sd, tiny_folder, tmp_path / "runs")
    add_concepts(session, "ada", "bob")
    return session


@pytest.fixture
def compiled():
    """The names of the programs that are compiled from now on. None is there of earlier tests."""
    jax.clear_caches()
    names = []

    def listen(event, seconds, **more):
        if event.endswith("backend_compile_duration"):
            names.append(more.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def picture(session, names, weights, prompt=PROMPT, method="sum"):
    adapters = [entry.adapter for entry in session.library.find(names)]
    return session.draw(session.merged(adapters, weights, method), prompt, 0, 0, SAMPLING)


def test_the_second_picture_comes_without_compiling(session, compiled):
    first = picture(session, ["ada"], [1.0])
    assert any("program" in name for name in compiled)
    compiled.clear()
    weaker = picture(session, ["ada"], [0.5])
    assert compiled == []
    assert (first != weaker).any()
    # Other concepts may compile how they are merged, but never how pictures are drawn.
    picture(session, ["ada", "bob"], [1.0, 1.0])
    picture(session, [], [], "a photo of a dog")
    assert not any("program" in name for name in compiled), compiled
    compiled.clear()
    picture(session, ["ada", "bob"], [0.3, 0.9], "a drawing of <bob> man")
    assert compiled == []


def test_pictures_are_those_of_the_library_bit_for_bit(session):
    adapters = [entry.adapter for entry in session.library.find(["ada", "bob"])]
    model = session.sd.with_adapters(adapters, [1.0, 0.7])
    expected = model.generate([PROMPT], steps=2)[0]
    np.testing.assert_array_equal(picture(session, ["ada", "bob"], [1.0, 0.7]), expected)


def test_equal_requests_are_merged_once(session):
    adapters = [entry.adapter for entry in session.library.find(["ada"])]
    assert session.merged(adapters, [1.0]) is session.merged(adapters, [1.0])


def test_adapters_of_another_base_are_refused(session, tiny_sd2):
    other = random_adapter("eve", tiny_sd2.params, slots=(0,), layers="cross_kv")
    with pytest.raises(UserError, match="'eve' was trained on"):
        session.merged([other], [1.0])


def test_adapters_with_the_same_slot_are_refused_as_on_the_command_line(session):
    one = session.library.find(["ada"])[0].adapter
    other = random_adapter("eve", session.sd.params, slots=(0,), layers="cross_kv")
    with pytest.raises(UserError, match="both own slot 0"):
        session.merged([one, other], [1.0, 1.0])


def test_a_fit_is_made_once_and_lets_slots_be_shared(session, monkeypatch):
    calls = []
    monkeypatch.setattr(train.app.session, "fit_jointly", lambda sd, adapters, **_: calls.append(1) or list(adapters))
    one = session.library.find(["ada"])[0].adapter
    other = random_adapter("eve", session.sd.params, slots=(0,), layers="cross_kv")
    session.merged([one, other], [1.0, 1.0], "joint_fit")
    session.merged([one, other], [1.0, 0.5], "joint_fit")
    assert calls == [1]


def test_tuned_tokens_are_those_of_the_library_and_belong_to_their_weights(session, monkeypatch):
    calls = []

    def fewer(sd, adapters, weights, **more):
        calls.append(weights)
        return merge.tune_tokens(sd, adapters, weights, steps=2, words=WORDS, **more)

    monkeypatch.setattr(train.app.session, "tune_tokens", fewer)
    adapters = [entry.adapter for entry in session.library.find(["ada", "bob"])]
    expected = merge.tune_tokens(session.sd, adapters, [1.0, 0.5], steps=2, words=WORDS).adapters
    found = session.merged(adapters, [1.0, 0.5], "tuned_tokens").adapters
    for own, theirs in zip(found, expected, strict=True):
        for key, vectors in theirs.tokens.items():
            np.testing.assert_array_equal(own.tokens[key], vectors)
    session.adjusted(adapters, "tuned_tokens", [1.0, 0.5])
    session.adjusted(adapters, "tuned_tokens", [1.0, 1.0])
    assert calls == [(1.0, 0.5), (1.0, 1.0)]
    # Nothing disturbs a single concept.
    assert session.adjusted(adapters[:1], "tuned_tokens") == adapters[:1]
    # Concepts that share weights are refused, as on the command line.
    eve = random_adapter("eve", session.sd.params, slots=(0,), layers="cross_kv")
    with pytest.raises(UserError, match="both own slot 0"):
        session.adjusted([adapters[0], eve], "tuned_tokens")
