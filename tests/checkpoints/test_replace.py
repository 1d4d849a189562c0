import os

import pytest

from blocklora_jax.checkpoints.replace import recover_folder, replace_folder
from blocklora_jax.errors import UserError


def write_model(path, text, dropped=()):
    with replace_folder(path, dropped) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text(text)


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file())


@pytest.fixture(params=["exchanged in one step", "renamed twice"])
def way(request, monkeypatch):
    """Both ways to replace a folder by another one."""
    if request.param == "renamed twice":
        monkeypatch.setattr("blocklora_jax.checkpoints.replace._exchange", lambda one, other: False)


@pytest.mark.usefixtures("way")
def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    write_model(tmp_path / "deep" / "model", "one")
    write_model(tmp_path / "deep" / "model", "two")
    assert (tmp_path / "deep" / "model" / "part" / "weights").read_text() == "two"
    assert os.listdir(tmp_path / "deep") == ["model"]


@pytest.mark.usefixtures("way")
def test_other_files_in_the_folder_stay_except_those_to_be_dropped(tmp_path):
    model = tmp_path / "model"
    write_model(model, "one")
    (model / "loras").mkdir()
    (model / "empty").mkdir()
    (model / "loras" / "rex.safetensors").write_text("rex")
    (model / "notes.txt").write_text("mine")
    (model / "part" / "old").write_text("ours")
    (model / "link").symlink_to("notes.txt")
    write_model(model, "two", dropped=["part/old", "part/weights"])
    assert listing(model) == ["link", "loras/rex.safetensors", "notes.txt", "part/weights"]
    assert (model / "loras" / "rex.safetensors").read_text() == "rex"
    assert (model / "part" / "weights").read_text() == "two"
    assert (model / "link").is_symlink()
    assert (model / "empty").is_dir()
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_whose_files_are_all_dropped_is_gone(tmp_path):
    write_model(tmp_path / "model", "one")
    (tmp_path / "model" / "text_encoder_2").mkdir()
    (tmp_path / "model" / "text_encoder_2" / "config.json").write_text("{}")
    write_model(tmp_path / "model", "two", dropped=["text_encoder_2/config.json"])
    assert not (tmp_path / "model" / "text_encoder_2").exists()


@pytest.mark.usefixtures("way")
def test_an_error_while_writing_leaves_the_old_folder(tmp_path):
    write_model(tmp_path / "model", "one")
    with pytest.raises(KeyError), replace_folder(tmp_path / "model"):
        raise KeyError
    assert (tmp_path / "model" / "part" / "weights").read_text() == "one"
    assert os.listdir(tmp_path) == ["model"]


def test_a_failing_move_restores_the_old_folder(tmp_path, monkeypatch):
    write_model(tmp_path / "model", "one")
    monkeypatch.setattr("blocklora_jax.checkpoints.replace._exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def fail_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(UserError, match="No space left"):
        write_model(tmp_path / "model", "two")
    assert (tmp_path / "model" / "part" / "weights").read_text() == "one"
    assert os.listdir(tmp_path) == ["model"]


def test_a_kill_between_the_two_moves_loses_nothing(tmp_path, monkeypatch):
    model = tmp_path / "model"
    write_model(model, "one")
    monkeypatch.setattr("blocklora_jax.checkpoints.replace._exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def die_before_second(source, target):
        calls.append(target)
        if len(calls) >= 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", die_before_second)
    with pytest.raises(KeyboardInterrupt):
        write_model(model, "two")
    monkeypatch.setattr(os, "rename", rename)
    assert not model.exists()
    assert recover_folder(model)
    assert (model / "part" / "weights").read_text() == "one"
    assert os.listdir(tmp_path) == ["model"]


def test_an_empty_folder_may_be_there_already(tmp_path):
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", "one")
    assert (tmp_path / "model" / "part" / "weights").exists()


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write_model(tmp_path / "disk" / "model", "one")
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    write_model(tmp_path / "model", "two")
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "disk" / "model" / "part" / "weights").read_text() == "two"
