"""`--push`: what is checked before a training, and what is pushed after it. The hub is a stand-in."""

from __future__ import annotations

import json
import shlex
import sys

import pytest
from concept_builders import as_flags, make_config, settings, write_pictures
from PIL import Image

import train.concept.run
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.picture_grid import png_bytes
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params
from train.concept.__main__ import main
from train.concept.push import check_pushes, push_trained
from train.concept.run_folder import changed_settings
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions


def teach(monkeypatch, capsys, *flags: str, **changes) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["train.concept", *as_flags(settings(cpu=True, **changes)), *flags])
    code = 0
    try:
        run(main)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Instead of a training, a run folder as one leaves it."""
    path = tmp_path / "run" / "adapter.safetensors"

    def leave_run(config, platform):
        random_adapter("ada", tiny_params(), slots=(0,)).save(path)
        write_atomic(path.parent / "previews" / "000004.png", png_bytes(Image.new("RGB", (4, 4))))
        return path

    monkeypatch.setattr(train.concept.run, "train_concept", leave_run)
    return path


@pytest.mark.filterwarnings("ignore:the card names no base model")
def test_a_trained_adapter_is_pushed_with_its_preview(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    flags = ("--push", "someone/ada", "--private", "--license", "mit")
    code, printed = teach(monkeypatch, capsys, *flags, out=trained.parent)
    assert code == 0, printed
    assert f"pushed 'ada' to {hub.url}/someone/ada; load it as hub:someone/ada" in printed
    repository = hub.repositories["models", "someone/ada"]
    assert repository.private
    held = repository.files
    assert held["adapter.safetensors"] == trained.read_bytes()
    assert held["pictures/0.png"] == (trained.parent / "previews" / "000004.png").read_bytes()
    assert b'license: mit\npipeline_tag: text-to-image\nwidget:\n- text: "a photo of <ada> man"\n' in held["README.md"]
    assert str(trained.parent).encode() not in b"".join(held.values()), "nothing says where it was trained"


def test_what_would_fail_at_the_end_fails_before_the_training(hub, tmp_path, monkeypatch, capsys):
    random_adapter("bob", tiny_params(), slots=(0,)).save(tmp_path / "bob.safetensors")
    hub.put("someone/bob", {"adapter.safetensors": (tmp_path / "bob.safetensors").read_bytes()})
    where = {"images": write_pictures(tmp_path / "pictures"), "out": tmp_path / "run"}
    cases = {
        ("--push", "someone/ada"): "needs a token that may write: log in with `hf auth login`",
        ("--push", "ada"): "'ada' is not the name of a repository on the hub",
        ("--license", "mit"): "--license is for a repository on the hub: give --push owner/name too",
    }
    for flags, message in cases.items():
        code, printed = teach(monkeypatch, capsys, *flags, **where)
        assert (code, message in printed) == (2, True), printed
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    code, printed = teach(monkeypatch, capsys, "--push", "someone/bob", **where)
    assert (code, "holds another adapter, 'bob'" in printed) == (2, True), printed
    assert not (tmp_path / "run").exists()
    check_pushes([make_config(push="someone/bob", replace=True)])
    with pytest.raises(UserError, match="--push someone/x is given for several concepts"):
        check_pushes([make_config(push="someone/x"), make_config(push="someone/x", token="<bob>")])


def test_a_push_that_fails_at_the_end_names_the_way_to_try_again(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    before = train.concept.run.train_concept

    def end(config, platform):
        hub.is_down = True
        return before(config, platform)

    monkeypatch.setattr(train.concept.run, "train_concept", end)
    code, printed = teach(monkeypatch, capsys, "--push", "someone/ada", out=trained.parent)
    assert code == 2, printed
    assert "503" in printed
    assert f"The adapter is saved: `python -m merge push {trained} someone/ada` tries again" in printed
    assert trained.exists()


def test_the_way_to_try_again_has_all_flags_and_quotes_the_path(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    path = tmp_path / "ada's run" / "adapter.safetensors"
    random_adapter("ada", tiny_params(), slots=(0,)).save(path)
    hub.is_down = True
    for flags, words in (
        ({"private": True, "replace": True}, ["--private", "--replace"]),
        ({"license": "cc-by-4.0"}, ["--license", "cc-by-4.0"]),
    ):
        with pytest.raises(UserError, match="The adapter is saved") as error:
            push_trained([make_config(push="someone/ada", **flags)], [path])
        command = str(error.value).split("`")[-2]
        assert shlex.split(command) == ["python", "-m", "merge", "push", str(path), "someone/ada", *words]


def test_each_of_many_concepts_names_its_own_repository(tmp_path):
    listed = "{ada: {class_noun: man, images: x, push: someone/ada}, bob: {class_noun: man, images: x}}"
    (tmp_path / "concepts.yaml").write_text(listed)
    options = ConceptsOptions(concepts=tmp_path / "concepts.yaml", out=tmp_path / "runs")
    assert [config.sharing.push for config in read_concepts(options, [])] == ["someone/ada", None]
    with pytest.raises(UserError, match="--push someone/x is given for several concepts"):
        check_pushes(read_concepts(options, ["--push", "someone/x"])[1:] * 2)


def test_where_a_run_is_pushed_does_not_change_its_files_and_may_change():
    plain, pushed = make_config(), make_config(push="someone/ada", private=True)
    assert not {"push", "private", "license", "replace"} & plain.to_json().keys()
    assert changed_settings(json.loads(json.dumps(plain.to_json())), pushed) == []
