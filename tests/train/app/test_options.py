"""`blocklora app` as a command: its flags, its model, and what it says without Gradio."""

from __future__ import annotations

import importlib.util
import os

import pytest

import train.app.open_session
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.program import as_called, called_as
from blocklora_jax.errors import UserError
from train.app.__main__ import main, require_gradio
from train.app.open_session import open_session
from train.app.options import AppOptions
from train.app.protection import LOOPBACK, middleware
from train.app.settings import training_settings


def test_by_default_only_this_machine_can_open_it():
    options = read_options(AppOptions, [])
    assert (options.host, options.port, str(options.out)) == ("127.0.0.1", 7860, "runs")
    assert options.host in LOOPBACK


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "65536"], "--port must be at most 65535"),
        (["--host", ""], "--host must not be empty"),
        (["--largest-upload", "0"], "--largest-upload must be at least 1, not 0"),
        (["--out", ""], "--out must not be empty"),
    ],
)
def test_wrong_flags_are_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        read_options(AppOptions, flags)


def test_requests_for_other_hosts_pass_only_if_the_user_opened_the_app_to_the_network():
    assert len(middleware("127.0.0.1")) == len(middleware("0.0.0.0")) + 1


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'blocklora_jax\[app\]'"):
        require_gradio()


def test_files_of_the_browser_lie_in_a_folder_that_is_removed_at_the_end(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr("sys.argv", ["app", "--out", str(tmp_path)])
    monkeypatch.setattr("train.app.__main__._serve", lambda options: seen.append(os.environ["GRADIO_TEMP_DIR"]))
    main()
    assert "blocklora-app-" in seen[0]
    assert not os.path.exists(seen[0])


def test_the_settings_file_names_the_model_unless_a_flag_does(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model: some/model\nbasis: null\nassignment: layer\ntoken_side: 0\ntoken_start: noun\n"
                      "negatives_from: nouns\nvariant: fp16\n")  # fmt: skip
    settings = training_settings(AppOptions(config=config))
    assert (settings.model, settings.base.variant) == ("some/model", "fp16")
    assert training_settings(AppOptions(config=config, model="other/model")).model == "other/model"
    with pytest.raises(UserError, match="cannot read"):
        training_settings(AppOptions(config=tmp_path / "none"))


def test_a_model_without_settings_can_be_opened_but_not_taught(monkeypatch, capsys, tiny_sd):
    monkeypatch.setattr(train.app.open_session, "load_base", lambda model, settings, platform: tiny_sd)
    session = open_session(AppOptions(model="some/model"))
    assert session.options.model == "some/model"
    assert "note: this app cannot teach: --model some/model needs a basis" in capsys.readouterr().err


def test_a_missing_model_is_one_error_without_a_note(capsys, tmp_path):
    with pytest.raises(UserError, match="none"):
        open_session(AppOptions(model=str(tmp_path / "none")))
    assert capsys.readouterr().err == ""


def test_its_errors_name_it_as_it_was_called():
    with called_as("app"):
        assert as_called("see python -m train.app --help") == "see blocklora app --help"
