import os

import pytest

from blocklora_jax.checkpoints.replace import replace_folder
from blocklora_jax.errors import UserError

MARKER = "index.json"


def write_model(path, text):
    with replace_folder(path, MARKER) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text(text)
        (folder / MARKER).write_text("{}")


def test_a_folder_appears_whole_and_replaces_the_one_before(tmp_path):
    write_model(tmp_path / "deep" / "model", "one")
    write_model(tmp_path / "deep" / "model", "two")
    assert (tmp_path / "deep" / "model" / "part" / "weights").read_text() == "two"
    assert os.listdir(tmp_path / "deep") == ["model"]


def test_an_error_while_writing_leaves_the_folder_before(tmp_path):
    write_model(tmp_path / "model", "one")
    with pytest.raises(KeyError), replace_folder(tmp_path / "model", MARKER):
        raise KeyError
    assert (tmp_path / "model" / "part" / "weights").read_text() == "one"
    assert os.listdir(tmp_path) == ["model"]


def test_a_failing_move_brings_the_folder_before_back(tmp_path, monkeypatch):
    write_model(tmp_path / "model", "one")
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


def test_an_empty_folder_may_be_there_already(tmp_path):
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", "one")
    assert (tmp_path / "model" / MARKER).exists()
