"""TensorBoard, Weights & Biases and a notebook are told the curves and the previews of a run."""

from __future__ import annotations

import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from blocklora_jax.errors import UserError
from blocklora_jax.notebook.place import in_notebook
from train.concept.followers import check_extras, make_followers
from train.concept.settings.run import RunSettings
from train.engine.followers.follower import closed_at_end
from train.engine.followers.notebook import NotebookView
from train.engine.followers.tensorboard import TensorBoard
from train.engine.followers.weights_and_biases import WeightsAndBiases
from train.engine.loop import LoopConfig, run_loop

GREEN = Image.new("RGB", (8, 4), (0, 200, 0))


class Recorder:
    def __init__(self):
        self.seen = []

    def metrics(self, step, values):
        self.seen.append((step, dict(values)))

    def preview(self, step, name, picture):
        self.seen.append((step, name))

    def close(self):
        self.seen.append("closed")


def follow(follower) -> None:
    with closed_at_end([follower]):
        follower.metrics(10, {"diffusion_loss": 0.5})
        follower.preview(10, "ada", GREEN)
        follower.metrics(20, {"diffusion_loss": 0.25})


def events(folder) -> list[Event]:
    """All records of TensorBoard's files: each has its length, a checksum, its data, and a checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return found


def test_the_loop_tells_its_metrics_at_their_interval(tmp_path):
    follower = Recorder()
    step = lambda state, batch: ({"n": state["n"] + 1}, {"loss": np.float32(state["n"])})
    run_loop(LoopConfig(steps=5, log_every=2), tmp_path, {"n": np.int32(0)}, step, lambda i: i, followers=[follower])
    assert [(number, values["loss"]) for number, values in follower.seen] == [(2, 1.0), (4, 3.0), (5, 4.0)]


def test_all_followers_are_closed_after_an_error():
    follower = Recorder()
    with pytest.raises(RuntimeError), closed_at_end([follower]):
        raise RuntimeError
    assert follower.seen == ["closed"]


def test_tensorboard_gets_a_curve_and_a_picture(tmp_path):
    follow(TensorBoard(tmp_path))
    values = [(event.step, value) for event in events(tmp_path / "tensorboard") for value in event.summary.value]
    curve = [(step, value.simple_value) for step, value in values if value.tag == "diffusion_loss"]
    assert curve == [(10, 0.5), (20, 0.25)]
    [picture] = [value.image for _, value in values if value.tag == "preview/ada"]
    assert (picture.width, picture.height) == GREEN.size


def test_weights_and_biases_writes_offline_without_an_account(tmp_path):
    follow(WeightsAndBiases(tmp_path, "offline", "ada", {"rank": 8}))
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    [log] = run.glob("*.wandb")
    # The service of wandb writes the end of its log a moment after the run was closed.
    for _ in range(100):
        if b"diffusion_loss" in (content := log.read_bytes()):
            break
        time.sleep(0.2)
    assert b"diffusion_loss" in content and b"training_step" in content and b"rank" in content
    [picture] = run.rglob("*.png")
    with Image.open(picture) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(GREEN))
    # A resumed run goes on under the same number.
    assert log.stem.removeprefix("run-") == (tmp_path / "wandb" / "blocklora_run_id").read_text()


def test_what_weights_and_biases_refuses_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.Error("api_key not configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"api_key not configured\): log in with `wandb login`, or give --wandb off"):
        WeightsAndBiases(tmp_path, "online", "ada", {})


def test_a_missing_package_is_named_before_anything_is_written(monkeypatch):
    monkeypatch.setattr("train.concept.followers.find_spec", lambda name: None)
    check_extras(RunSettings())
    with pytest.raises(UserError, match=r"blocklora_jax\[tensorboard\]"):
        check_extras(RunSettings(tensorboard=True))
    with pytest.raises(UserError, match=r"--wandb offline needs wandb: pip install 'blocklora_jax\[wandb\]'"):
        check_extras(RunSettings(wandb="offline"))


def test_only_what_the_settings_name_follows_outside_notebooks(tmp_path):
    assert not in_notebook()
    assert make_followers(RunSettings(), tmp_path, "ada", {}) == []
    [board] = make_followers(RunSettings(tensorboard=True), tmp_path, "ada", {})
    board.close()
    assert isinstance(board, TensorBoard)


def test_following_loads_no_package_that_is_not_asked_for():
    code = "import train.concept.followers, sys; print([n for n in ('wandb', 'IPython') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_notebook_shows_one_chart_and_the_newest_preview_of_each_concept(monkeypatch):
    shown = []
    monkeypatch.setattr("blocklora_jax.notebook.place.ChangingPicture.show", lambda self, p: shown.append((self, p)))
    follower = NotebookView()
    follow(follower)
    follower.preview(20, "ada", GREEN)
    follower.preview(20, "rex", Image.new("RGB", (4000, 1000)))
    places = [place for place, _ in shown]
    # Chart, preview of ada, chart at the end; then ada again in its place, and rex in another.
    assert [places.index(place) for place in places] == [0, 1, 0, 1, 4]
    assert shown[-1][1].size == (1000, 250)


def test_a_resumed_run_in_a_notebook_shows_its_curve_from_the_beginning(monkeypatch):
    drawn = []
    monkeypatch.setattr("train.engine.followers.notebook.line_chart", lambda curves: drawn.append(curves))
    monkeypatch.setattr("blocklora_jax.notebook.place.ChangingPicture.show", lambda self, picture: None)
    view = NotebookView([{"step": step, "loss": 1.0, "diffusion_loss": 0.5} for step in (10, 20, 30)])
    view.metrics(20, {"diffusion_loss": 0.25})
    view.close()
    assert drawn[-1] == {"diffusion_loss": ((10, 20), (0.5, 0.25))}
