"""The app's server, by Gradio's client and by plain requests: all pages, errors, and what it refuses to serve."""

from __future__ import annotations

import html
import http.client
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from app_builders import add_concepts, make_session
from concept_builders import write_pictures
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from train.app.pages.picker import MOST_SLIDERS
from train.app.site import launch


@pytest.fixture(scope="module")
def session(tiny_sd, tiny_folder, tmp_path_factory):
    session = make_session(tiny_sd, tiny_folder, tmp_path_factory.mktemp("app") / "runs")
    add_concepts(session, "ada", "bob")
    return session


@pytest.fixture(scope="module")
def address(session, tmp_path_factory):
    """The address of a server whose temporary files lie in a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("files")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        object.__setattr__(session.options, "largest_upload", 1)
        site, address = launch(session)
        yield address
        site.close(verbose=False)


@pytest.fixture
def client(address, tmp_path):
    client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
    client.predict([], api_name="/library")
    client.predict([], api_name="/library_to_share")
    return client


def sliders(**weights: float) -> list[float]:
    return [*weights.values(), *[1.0] * (MOST_SLIDERS - len(weights))]


def draw(client, names, prompt, weights=(), mode="one", **changes):
    values = {
        "apart": False, "refine": False, "method": "sum", "count": 1, "seed": 0, "steps": 2, "guidance": 5,
        "sampler": "dpmpp_2m", "negative": "", **changes,
    }  # fmt: skip
    client.predict(names, prompt, api_name="/choose")
    return client.predict(names, *sliders(**dict(weights)), prompt, mode, *values.values(), api_name="/draw")


def export(client, names, name):
    return client.predict(names, *sliders(), name, "kohya", "float32", "sum", api_name="/export")


def pixels(picture) -> np.ndarray:
    return np.asarray(Image.open(picture["image"]).convert("RGB"), int)


def test_two_concepts_are_composed_and_a_weight_changes_the_picture(client, session):
    names, prompt = ["ada", "bob"], "a photo of <ada> man and <bob> man"
    gallery, note = draw(client, names, prompt)
    weaker, _ = draw(client, names, prompt, {"ada": 0.2, "bob": 1.0})
    assert np.abs(pixels(gallery["value"][0]) - pixels(weaker["value"][0])).max() > 8
    again, _ = draw(client, names, prompt, {"ada": 1.0, "bob": 1.0})
    np.testing.assert_array_equal(pixels(gallery["value"][0]), pixels(again["value"][0]))
    kept = session.library.root / "pictures" / "0001.png"
    assert str(kept) in note
    record = json.loads(Image.open(kept).text["blocklora"])
    assert record["pictures"] == [{"prompt": prompt, "index": 0, "weights": {"ada": 1.0, "bob": 1.0}}]


def test_each_alone_and_merged_are_drawn_once_from_one_noise(client):
    gallery, _ = draw(client, ["ada", "bob"], "a photo of <ada> man and <bob> man", mode="compare", apart=True)
    assert [picture["caption"] for picture in gallery["value"]] == ["ada alone", "bob alone", "merged"]
    strip, _ = draw(client, ["ada"], "a photo of <ada> man", mode="strip")
    assert [p["caption"] for p in strip["value"]] == [f"weight {w:g}" for w in (0, 0.25, 0.5, 0.75, 1)]


def test_crosstalk_is_shown_with_advice(client):
    advice, heat = client.predict(["ada", "bob"], "sum", api_name="/crosstalk")
    # Adapters in separate blocks of random features still read each other's prompts.
    assert "Choose “fit them to each other”" in advice
    assert Image.open(heat["value"] if isinstance(heat, dict) else heat).size[0] > 100


@pytest.mark.parametrize("form", ["diffusers", "kohya", "adapters", "folder", "single"])
def test_every_form_can_be_exported_and_downloaded(client, session, form):
    names = ["ada", "bob"]
    client.predict(names, api_name="/choose_to_share")
    share = [names, *sliders(ada=1.0, bob=0.5), f"both {form}", form, "float32", "sum"]
    shown, archive, *_ = client.predict(*share, api_name="/export")
    folder = session.library.root / "exports" / f"both {form}"
    assert html.escape(str(folder)) in shown
    unpacked = Path(session.library.root.parent / f"unpacked {form}")
    shutil.unpack_archive(archive["value"] if isinstance(archive, dict) else archive, unpacked, "zip")
    there = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert there == {path.relative_to(unpacked / folder.name) for path in unpacked.rglob("*") if path.is_file()}
    assert any(path.suffix == ".safetensors" for path in there)
    if form == "adapters":
        assert {Adapter.load(path).name for path in folder.glob("*.safetensors")} == set(names)


def test_the_card_is_shown_before_anything_is_written(client, session):
    before = sorted(session.library.root.rglob("*"))
    card = client.predict(["ada"], *sliders(), "mine", "diffusers", "float32", "sum", api_name="/card")
    assert card.startswith("```yaml\n")
    assert "`<ada> man`" in card
    assert "<!--" not in card
    assert sorted(session.library.root.rglob("*")) == before


def test_a_concept_is_checked_and_taught(client, session, tmp_path, monkeypatch):
    monkeypatch.setattr("train.concept.preview.preview_prompts", lambda concept, words: (f"a {concept.trigger}",))
    files = [handle_file(path) for path in sorted(write_pictures(tmp_path / "sent", 2).iterdir())]
    form = ["my own pictures", files, "eve", "man", "person", 2, False, False, False, ""]
    note, sheet, rows, crops = client.predict(*form, api_name="/check_pictures")
    assert "2 pictures." in note
    assert Image.open(sheet).size[0] > 200
    assert "trained as 16 x 16, from 20 x 16" in rows
    assert len(crops) == 2
    assert "Teaching eve" in client.predict(*form, api_name="/teach")
    assert session.trainings[-1].job.wait(300)
    assert session.trainings[-1].job.state == "done"
    assert [entry.name for entry in session.library.entries()[0]] == ["ada", "bob", "eve"]
    assert sorted(path.name for path in (session.library.root / "eve" / "pictures").iterdir()) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: draw(c, ["ada"], " "), "there is no prompt"),
        (lambda c: draw(c, ["ada"], "a photo of a dog", mode="compare"), "calls no concept by its token"),
        (lambda c: draw(c, ["ada"], "a <ada> man", seed=-1), "--seed must be at least 0, not -1"),
        (lambda c: c.predict(["ada"], "sum", api_name="/crosstalk"), "choose two concepts or more"),
        (lambda c: export(c, ["ada"], "../../up"), "'/' in it"),
        (lambda c: export(c, [], "up"), "choose at least one concept"),
        (lambda c: c.predict(["ada"], "no name", True, api_name="/push"), "no repository of the hub"),
        (lambda c: c.predict("../../etc", api_name="/continue_teaching"), ""),
        (lambda c: draw(c, ["../../etc"], "a photo"), ""),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_nothing_is_written(client, session, call, message):
    before = sorted(session.library.root.rglob("*"))
    with pytest.raises(AppError) as error:
        call(client)
    text = html.unescape(str(error.value))
    assert message in text
    assert "\n" not in text
    assert sorted(session.library.root.rglob("*")) == before


def get(address: str, path: str, host: str = "") -> int:
    """The status of a request, whose path is sent as it is."""
    place = address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(place, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or place)
    connection.endheaders()
    return connection.getresponse().status


def test_no_file_outside_its_own_folder_is_served(address, session):
    assert get(address, "/") == 200
    adapter = session.library.root / "ada" / "adapter.safetensors"
    root = "/gradio_api/file="
    for path in ("/etc/passwd", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd",
                 str(adapter), f"{adapter.parent}/../ada/adapter.safetensors", str(Path.cwd() / "setup.py"),
                 "file:///etc/passwd", "https://example.org/a.png", "HTTPS://example.org/a.png"):  # fmt: skip
        assert get(address, root + path.replace(" ", "%20")) in (400, 403, 404), path
    assert get(address, "/gradio_api/proxy=https://example.org/") == 403
    for path in ("/static/../../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd", "/../../etc/passwd"):
        assert get(address, path) in (400, 403, 404), path


def test_paths_that_a_browser_names_are_not_read(client):
    stolen = {"path": "/etc/passwd", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    form = ["my own pictures", [stolen], "thief", "man", "person", 2, False, False, False, ""]
    with pytest.raises(AppError):
        client.predict(*form, api_name="/check_pictures")
    with pytest.raises(AppError):
        client.predict(stolen, api_name="/add_adapter")


def test_only_requests_for_this_machine_are_answered(address):
    assert get(address, "/", host="evil.example") == 400
    assert get(address, "/config", host="evil.example:80") == 400
    assert get(address, "/", host="localhost") == 200
    assert address.startswith("http://127.0.0.1:")


def test_uploads_are_bounded(client, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(b"0" * 1_200_000)
    form = ["my own pictures", [handle_file(large)], "big", "man", "person", 2, False, False, False, ""]
    with pytest.raises(Exception, match="(?i)size|413|large"):
        client.predict(*form, api_name="/check_pictures")


def test_a_port_that_is_taken_is_an_error_that_says_so(address, tiny_sd, tiny_folder, tmp_path):
    second = make_session(tiny_sd, tiny_folder, tmp_path / "runs")
    object.__setattr__(second.options, "port", int(address.rstrip("/").rpartition(":")[2]))
    with pytest.raises(UserError, match="choose another --port"):
        launch(second)
