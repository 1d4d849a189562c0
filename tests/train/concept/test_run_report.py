"""report.html: one file without scripts, in which what comes from files is text; for finished and interrupted runs."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from concept_builders import make_config
from PIL import Image

from blocklora_jax.errors import UserError
from train.concept.group_record import write_group_record
from train.concept.report.page import make_page
from train.concept.report.run_facts import read_run, shown_settings
from train.concept.report.write import write_report
from train.report import main

EVIL = "<script>alert(1)</script>\"'&\u202e"


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def pictures(self) -> list[str]:
        return [attrs["alt"] for tag, attrs in self.elements if tag == "img"]


def begun(folder: Path, lines=4, previews=(2, 4), adapter=True, **changes) -> Path:
    """A run folder as training leaves it."""
    (folder / "previews").mkdir(parents=True)
    settings = make_config(out=folder, preview_prompts=()).to_json() | changes
    (folder / "config.json").write_text(json.dumps(settings | {"basis_digests": {"directions": "0"}}))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, lines + 1):
            file.write(json.dumps({"step": step, "diffusion_loss": 1 / step, "loss": 1.0}) + "\n")
    for step in previews:
        Image.new("RGB", (40, 20), "red").save(folder / "previews" / f"{step:06d}.png")
    Image.new("RGB", (40, 20), "green").save(folder / "contact_sheet.png")
    if adapter:
        (folder / "adapter.safetensors").write_bytes(b"0" * 1000)
    return folder


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(tmp_path):
    page = page_of(begun(tmp_path / "ada"))
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")]
        assert attrs.get("src", "data:image/").startswith("data:image/")
        assert "href" not in attrs
    [policy] = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_a_finished_run_shows_previews_curves_pictures_use_and_settings(tmp_path):
    page = page_of(begun(tmp_path / "ada"))
    assert page.pictures() == [
        "preview after 4 steps", "preview after 2 steps", "curves of the losses over the steps",
        "the training pictures with their captions",
    ]  # fmt: skip
    assert "Finished: 4 steps" in page.text
    assert "python -m merge adapter.safetensors --model tiny --prompt 'a photo of <ada> man'" in page.text
    assert "rank" in page.text


def test_an_interrupted_run_says_how_far_it_is_and_how_to_go_on(tmp_path):
    page = page_of(begun(tmp_path / "ada", lines=3, previews=(2,), adapter=False))
    assert "Not finished: 3 of 4 steps. The same command with --resume goes on" in page.text
    assert "How to use it" not in page.text
    empty = page_of(begun(tmp_path / "new", lines=0, previews=(), adapter=False))
    assert "no step is logged yet" in empty.text
    assert empty.pictures() == ["the training pictures with their captions"]


def test_nothing_from_a_file_is_read_as_markup(tmp_path):
    folder = begun(tmp_path / "run", token=f"<{EVIL}>", class_noun=EVIL, random_subjects=[EVIL], model=EVIL)
    page = page_of(folder)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in page.text


def test_paths_of_this_machine_are_cut_to_their_last_part(tmp_path):
    folder = begun(tmp_path / "secret" / "ada", images="/home/me/secret/rex", model=str(tmp_path / "secret" / "sd"))
    text = make_page(read_run(folder))
    assert "secret" not in text
    assert "rex" in text and "--model DIR" in text


def test_settings_that_differ_from_the_defaults_come_first(tmp_path):
    chosen, others = shown_settings(read_run(begun(tmp_path / "ada")).settings)
    assert {"token": "<ada>", "slot": "1", "rank": "2", "steps": "4"}.items() <= chosen.items()
    assert others["weight_decay"] == "0.01" and "weight_decay" not in chosen
    assert "basis_digests" not in chosen | others


def test_concepts_that_were_trained_together_get_their_own_loss(tmp_path, capsys):
    for name in ("ada", "bob"):
        (begun(tmp_path / name, token=f"<{name}>") / "metrics.jsonl").unlink()
    group = tmp_path / "groups" / "000"
    group.mkdir(parents=True)
    line = {"step": 1, "loss": 3.0, "diffusion_loss": 2.0, "diffusion_loss/ada": 1.0, "diffusion_loss/bob": 4.0}
    (group / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert read_run(tmp_path / "bob").metrics == [{"step": 1, "loss": 3.0, "diffusion_loss": 4.0}]
    assert read_run(tmp_path / "ada", group).metrics[0]["diffusion_loss"] == 1.0
    main([str(tmp_path)])
    wrote = [f"wrote {tmp_path / name / 'report.html'}" for name in ("ada", "bob")]
    assert capsys.readouterr().out.splitlines() == wrote


def test_a_group_of_one_concept_shows_its_losses_to_that_concept_alone(tmp_path):
    for number, name in enumerate(("ada", "bob")):
        (begun(tmp_path / name, token=f"<{name}>") / "metrics.jsonl").unlink()
        group = tmp_path / "groups" / f"{number:03d}"
        write_group_record([make_config(token=f"<{name}>", out=tmp_path / name)], group)
        (group / "metrics.jsonl").write_text(json.dumps({"step": 1, "diffusion_loss": float(number)}) + "\n")
    losses = lambda: [[line["diffusion_loss"] for line in read_run(tmp_path / n).metrics] for n in ("ada", "bob")]
    assert losses() == [[0.0], [1.0]]
    for group in (tmp_path / "groups").iterdir():
        (group / "group.json").unlink()
    # Older versions did not record whose metrics they are.
    assert losses() == [[], []]
    shutil.rmtree(tmp_path / "bob")
    shutil.rmtree(tmp_path / "groups" / "001")
    assert read_run(tmp_path / "ada").metrics == [{"step": 1, "diffusion_loss": 0.0}]


def test_a_damaged_preview_is_left_out(tmp_path):
    folder = begun(tmp_path / "ada")
    (folder / "previews" / "000004.png").write_bytes(b"x")
    assert page_of(folder).pictures()[0] == "preview after 2 steps"


def test_of_many_previews_some_are_left_out_but_not_the_last(tmp_path):
    pictures = page_of(begun(tmp_path / "ada", previews=range(1, 50))).pictures()
    assert pictures[0] == "preview after 49 steps"
    assert len([alt for alt in pictures if alt.startswith("preview")]) <= 13


def test_what_is_no_run_and_somebody_elses_report_are_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no run of `python -m train.concept` in"):
        write_report(tmp_path)
    folder = begun(tmp_path / "ada")
    (folder / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"report\.html was not written by this program"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "mine"
    with pytest.raises(UserError, match="name the folder of a run"):
        main([])
