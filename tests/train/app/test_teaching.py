"""Teaching from the app's form: settings, slots, stopping and continuing; what is shown before and meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from app_builders import add_concepts, make_session
from concept_builders import write_pictures
from PIL import Image

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from train.app.curve import draw_curve, read_losses
from train.app.taught import shown_training
from train.app.teaching import TeachForm, concept_config, continue_teaching, start_teaching
from train.app.unfinished import read_run, runs_to_continue
from train.concept.data import load_concept_data
from train.concept.picture_check import check_pictures
from train.engine.progress import Progress


@pytest.fixture
def session(tiny_sd, tiny_folder, tmp_path):
    return make_session(tiny_sd, tiny_folder, tmp_path / "runs")


@pytest.fixture
def pictures(tmp_path):
    return sorted(write_pictures(tmp_path / "sent").iterdir())


def form(pictures, **changes) -> TeachForm:
    return TeachForm(**{"name": "Ada", "noun": "man", "kind": "person", "steps": 4, "files": pictures, **changes})


@pytest.fixture(scope="module", autouse=True)
def short_previews():
    """The tiny model reads 24 tokens, and one preview picture is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.concept.preview.preview_prompts", lambda concept, words: (f"a {concept.trigger}",))
        yield


@pytest.fixture(scope="module")
def taught(tiny_sd, tiny_folder, tmp_path_factory, short_previews):
    """A session in which a concept was taught, and the path of its adapter."""
    folder = tmp_path_factory.mktemp("taught")
    session = make_session(tiny_sd, tiny_folder, folder / "runs")
    return session, start_teaching(session, form(sorted(write_pictures(folder / "sent").iterdir()))).outcome()


def test_a_concept_is_taught_from_uploads_and_is_in_the_library(taught, pictures):
    session, path = taught
    assert path == session.library.root / "ada" / "adapter.safetensors"
    adapter = Adapter.load(path)
    assert (adapter.name, adapter.info.trigger, adapter.info.kind) == ("ada", "<ada> man", "person")
    assert [entry.name for entry in session.library.entries()[0]] == ["ada"]
    assert len(list((path.parent / "pictures").iterdir())) == 3
    assert [step for step, _ in read_losses(path.parent)] == [1, 2, 3, 4]
    assert shown_training(session.trainings).line() == (
        "ada is taught, and is in the library. Call it with “<ada> man” in prompts."
    )
    with pytest.raises(UserError, match="there is a folder ada in the library already"):
        start_teaching(session, form(pictures))


def test_a_stopped_training_continues_to_the_same_bits(taught, session, pictures, monkeypatch):
    whole = Adapter.load(taught[1])
    report = Progress.report

    def stop_after_two(progress, done, metrics):
        if done == 2:
            session.jobs.stop()
        return report(progress, done, metrics)

    monkeypatch.setattr(Progress, "report", stop_after_two)
    job = start_teaching(session, form(pictures))
    assert job.wait(120)
    assert job.state == "stopped"
    assert "can be continued" in shown_training(session.trainings).line()
    assert [folder.name for folder in runs_to_continue(session.library)] == ["ada"]
    monkeypatch.setattr(Progress, "report", report)
    continued = Adapter.load(continue_teaching(session, "ada").outcome())
    np.testing.assert_array_equal(continued.tokens["<ada>"], whole.tokens["<ada>"])
    for layer, pair in whole.lora["unet"].items():
        np.testing.assert_array_equal(pair.lora_A, continued.lora["unet"][layer].lora_A)
    assert runs_to_continue(session.library) == []
    with pytest.raises(UserError, match="there is no interrupted training 'ada'"):
        continue_teaching(session, "ada")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../eve"}, "--token '<../eve>' must look like"),
        ({"name": ""}, "the concept has no name"),
        ({"noun": " "}, "--class-noun must not be empty"),
        ({"steps": 0}, "--steps must be at least 1, not 0"),
        ({"files": []}, "there are no pictures"),
        ({"example": "../ada"}, "there is no packaged concept '../ada'"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused_and_leaves_nothing(session, pictures, changes, message):
    with pytest.raises(UserError) as error:
        start_teaching(session, form(pictures, **changes))
    assert message in str(error.value)
    assert not session.library.root.exists()


def test_a_run_that_cannot_begin_leaves_nothing(session, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    job = start_teaching(session, form([broken]))
    with pytest.raises(UserError, match="no picture can be read"):
        job.outcome()
    assert list(session.library.root.iterdir()) == []
    assert "error: " in shown_training(session.trainings).line()


def test_with_a_full_queue_nothing_is_left_of_the_uploads(session, pictures):
    gate = threading.Event()
    for _ in range(9):
        session.jobs.add("waiting", lambda job: gate.wait())
    with pytest.raises(UserError, match="jobs are waiting already"):
        start_teaching(session, form(pictures))
    assert not (session.library.root / "ada").exists()
    gate.set()
    session.jobs.stop_all()


def test_every_concept_gets_a_slot_of_its_own(session, pictures):
    add_concepts(session, "bob", "eve")
    config = concept_config(session, form(pictures), Path("pictures"))
    assert set(config.adapter.slot) <= {2, 3}
    add_concepts(session, "one", "two", "zoe", "max")
    with pytest.raises(UserError, match="all 4 slots"):
        concept_config(session, form(pictures), Path("pictures"))


def test_trainings_that_wait_keep_their_slots_and_names(session):
    gate = threading.Event()
    session.jobs.add("waiting", lambda job: gate.wait())
    names = ("ada", "rex", "bolt", "bob")
    for name in names:
        start_teaching(session, form([], name=name, example="ada"))
    assert sorted(training.slots for training in session.trainings) == [(0,), (1,), (2,), (3,)]
    with pytest.raises(UserError, match="rex is being taught already"):
        start_teaching(session, form([], name="Rex", example="ada"))
    with pytest.raises(UserError, match="all 4 slots"):
        start_teaching(session, form([], name="eve", example="ada"))
    for training in session.trainings:
        training.job.stop.set()
    gate.set()
    session.jobs.stop_all()
    assert {training.job.state for training in session.trainings} == {"stopped"}


def test_a_run_is_continued_once_at_a_time(session, pictures, tmp_path):
    config = concept_config(session, form(pictures), tmp_path / "sent")
    config.out.mkdir(parents=True)
    write_json(config.out / "config.json", config.to_json())
    gate = threading.Event()
    session.jobs.add("waiting", lambda job: gate.wait())
    continue_teaching(session, "ada")
    with pytest.raises(UserError, match="ada is being taught already"):
        continue_teaching(session, "ada")
    session.trainings[0].job.stop.set()
    gate.set()
    session.jobs.stop_all()


def test_a_run_that_cannot_be_read_does_not_prevent_others(session, pictures):
    broken = session.library.root / "broken"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("[]")
    assert concept_config(session, form(pictures), Path("pictures")).adapter.slot
    with pytest.raises(UserError, match="holds no settings of a run"):
        continue_teaching(session, "broken")


def test_the_settings_of_a_run_are_read_back(session, pictures, tmp_path):
    config = concept_config(session, form(pictures, prefix="a photo of {trigger},", mirror=True), tmp_path / "pictures")
    config.out.mkdir(parents=True)
    (config.out / "config.json").write_text(json.dumps(config.to_json()))
    assert read_run(config.out).to_json() == config.to_json()


def test_the_check_shows_what_is_trained_and_what_is_skipped(session, pictures, tmp_path):
    folder = tmp_path / "sent"
    (folder / "0.txt").write_text("a drawing of <ada> man on the beach")
    mask = np.zeros((16, 20), np.uint8)
    mask[4:12, 10:18] = 255
    Image.fromarray(mask).save(folder / "1.mask.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "lone.txt").write_text("no picture of this name")
    report = check_pictures(concept_config(session, form([]), folder), session.sd)
    assert report.note.startswith("3 pictures, 1 skipped (bad.png: damaged")
    assert [row[0] for row in report.rows] == ["0.png", "1.png", "2.png", "bad.png"]
    assert report.rows[0][1:] == ("trained as 16 x 16, from 20 x 16", "a drawing of <ada> man on the beach")
    assert report.rows[1][1] == "trained as 16 x 16, from 20 x 16, with a mask"
    assert report.rows[3][1].startswith("skipped: damaged")
    assert len(report.ignored) == 1
    assert "lone.txt" in report.ignored[0]
    assert str(tmp_path) not in report.ignored[0]
    assert [caption for _, caption in report.crops][0] == report.rows[0][2]
    # The masked-out part of the second crop is red.
    assert np.asarray(report.crops[1][0])[:32, :32, 0].mean() > 120


def test_the_checked_crops_are_those_that_are_trained(session, pictures, tmp_path):
    config = concept_config(session, form([], keep_shape=True, mirror=True), tmp_path / "sent")
    sizes = {crop.size for crop, _ in check_pictures(config, session.sd).crops}
    latents = load_concept_data(config, session.sd).latents
    assert len(latents) == len(check_pictures(config, session.sd).crops)
    ratios = {round(crop[0] / crop[1], 2) for crop in sizes}
    assert ratios == {round(latent.shape[1] / latent.shape[0], 2) for latent in latents}


def test_a_curve_is_drawn_from_the_log_and_damaged_lines_are_left_out(tmp_path):
    assert draw_curve(read_losses(tmp_path), 10) == ""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "diffusion_loss": 0.5}\n{"ste\n{"step": 2, "loss": 1}\n'
                                            '{"step": 5, "diffusion_loss": 0.25}\n')  # fmt: skip
    assert read_losses(tmp_path) == [(1, 0.5), (5, 0.25)]
    svg = draw_curve(read_losses(tmp_path), 10)
    assert svg.startswith("<svg")
    assert svg.count("<polyline") == 2
    assert "step 10" in svg
