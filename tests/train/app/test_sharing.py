"""Advice about crosstalk, and pushing to the hub."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from app_builders import add_concepts, make_session

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from train.app.crosstalk_advice import advise
from train.app.session import Method, Session
from train.app.sharing import ShareForm, forms, start_export, start_push

QUIET, LOUD = 0.02, 0.6


@pytest.fixture
def session(tiny_sd, tiny_folder, tmp_path):
    session = make_session(tiny_sd, tiny_folder, tmp_path / "runs")
    add_concepts(session, "ada", "bob")
    return session


def advice(pairs: np.ndarray, method: Method = "sum") -> str:
    others = np.sqrt(np.square(pairs).sum(1) - 1)
    return " ".join(advise(["ada", "rex", "eve"], pairs, others, method))


def test_quiet_concepts_are_merged_as_they_are():
    assert "Merge them as they are" in advice(np.full((3, 3), QUIET) + np.eye(3) * (1 - QUIET))


def test_the_concept_that_disturbs_most_is_named():
    pairs = np.full((3, 3), QUIET) + np.eye(3) * (1 - QUIET)
    pairs[0, 1] = pairs[2, 1] = LOUD
    text = advice(pairs)
    assert "ada is changed clearly by the others: they add 60 % of its own output." in text
    assert "rex is changed" not in text
    assert "Choose “fit them to each other”" in text
    assert "rex causes most of it (100 %): leave it out" in text
    assert "They were fitted already. rex causes" in advice(pairs, method="joint_fit")
    assert "Choose “fit them to each other”" in advice(pairs, method="tuned_tokens")


def test_little_crosstalk_needs_no_action_yet():
    pairs = np.eye(3)
    pairs[0, 1] = 0.2
    assert "ada is changed a little" in advice(pairs)
    assert "fit" not in advice(pairs)


def test_a_concept_without_output_is_named():
    pairs, others = np.array([[1, np.inf], [0.0, 1]]), np.array([np.inf, 0.0])
    assert advise(["ada", "rex"], pairs, others) == ["ada has no output on its own prompts. Was it trained to the end?"]


def test_a_push_calls_the_adapter_and_says_where_it_is(session, monkeypatch):
    pushed = []

    def push(self, repository, **more):
        pushed.append((self.name, repository, more))
        return f"https://hub/{repository}"

    monkeypatch.setattr(Adapter, "push_to_hub", push, raising=False)
    assert start_push(session, "ada", " some/name ").outcome() == "ada is at https://hub/some/name"
    assert pushed == [("ada", "some/name", {"private": True, "pictures": []})]
    for wrong in ("", "name", "../../etc", "a/b/c", "https://x/y"):
        with pytest.raises(UserError, match="is no repository of the hub"):
            start_push(session, "ada", wrong)


def test_a_version_without_the_hub_says_so(session, monkeypatch):
    monkeypatch.delattr(Adapter, "push_to_hub", raising=False)
    with pytest.raises(UserError, match="cannot push to the hub"):
        start_push(session, "ada", "some/name")


def test_an_export_that_fails_leaves_nothing(session, monkeypatch):
    def fail(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.app.sharing.export", fail)
    job = start_export(session, ShareForm(names=["ada"], weights=[1.0], name="mine"))
    with pytest.raises(UserError, match="No space left on device"):
        job.outcome()
    assert list((session.library.root / "exports").iterdir()) == []


def test_equal_names_are_numbered_and_unknown_forms_refused(session):
    form = ShareForm(names=["ada"], weights=[1.0], name="mine", form="adapters")
    folders = [start_export(session, form).outcome().folder.name for _ in range(2)]
    assert folders == ["mine", "mine-2"]
    with pytest.raises(UserError, match="unknown form"):
        start_export(session, ShareForm(names=["ada"], weights=[1.0], name="mine", form="../x"))
    assert {"diffusers", "kohya", "adapters", "folder", "single"} <= forms().keys()


def test_what_is_written_has_the_tokens_of_the_chosen_method(session, monkeypatch):
    asked = []

    def adjusted(self, adapters, method, weights=None):
        asked.append((method, list(weights)))
        moved = lambda adapter: {key: vectors + 1 for key, vectors in adapter.tokens.items()}
        return [dataclasses.replace(adapter, tokens=moved(adapter)) for adapter in adapters]

    monkeypatch.setattr(Session, "adjusted", adjusted)
    form = ShareForm(names=["ada", "bob"], weights=[1.0, 0.5], name="both", form="adapters", method="tuned_tokens")
    exported = start_export(session, form).outcome()
    assert asked == [("tuned_tokens", [1.0, 0.5])]
    for entry in session.library.find(["ada", "bob"]):
        written = Adapter.load(exported.folder / f"{entry.name}.safetensors")
        for key, vectors in entry.adapter.tokens.items():
            np.testing.assert_array_equal(written.tokens[key], vectors + 1)
