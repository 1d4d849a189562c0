"""Commands that would replace their inputs, or files that they did not write, are refused and change nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from blocklora_jax import Adapter, StableDiffusion
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main


@pytest.fixture
def ada(tiny_sd):
    return random_adapter("ada", tiny_sd.params, slots=(0,), layers="cross_kv")


@pytest.fixture
def rex(tiny_sd):
    return random_adapter("rex", tiny_sd.params, slots=(1,), layers="cross_kv")


@pytest.fixture
def place(tmp_path, ada, rex, tiny_folder):
    """A folder with two adapters and a base model in it."""
    ada.save(tmp_path / "ada.safetensors")
    rex.save(tmp_path / "rex.safetensors")
    shutil.copytree(tiny_folder, tmp_path / "base")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def refuse(capsys, place: Path, words: str, *args: object) -> None:
    """The command ends with one line and changes no file."""
    before = contents(place)
    with pytest.raises(SystemExit) as stop:
        run(lambda: main([str(arg) for arg in args]))
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert words in error
    assert contents(place) == before


@pytest.mark.parametrize("flag", [[], ["--overwrite"]])
def test_a_merge_is_not_saved_over_its_base(place, capsys, flag):
    merge_ = [place / "ada.safetensors", "--model", place / "base"]
    refuse(capsys, place, "is an input", *merge_, "--save", place / "base", *flag)
    refuse(capsys, place, "lies inside the input", *merge_, "--save", place / "base" / "merged", *flag)
    refuse(capsys, place, "contains the input", *merge_, "--save", place, *flag)
    refuse(
        capsys, place, "lies inside the input", *merge_, "--prompt", "a man", "--out", place / "base" / "a.png", *flag
    )


@pytest.mark.parametrize("flag", [[], ["--overwrite"]])
def test_a_single_file_is_not_saved_over_its_base(place, capsys, flag, tiny_sd):
    (base,) = tiny_sd.save(place / "model.safetensors")
    merge_ = [place / "ada.safetensors", "--model", base, "--model-config", place / "base"]
    refuse(capsys, place, "is an input", *merge_, "--save", base, *flag)


def test_a_folder_that_holds_an_adapter_of_this_merge_is_not_replaced(place, capsys):
    main([str(place / "ada.safetensors"), "--model", str(place / "base"), "--save", str(place / "merged")])
    shutil.copy(place / "rex.safetensors", place / "merged" / "rex.safetensors")
    merge_ = [place / "merged" / "rex.safetensors", "--model", place / "base"]
    refuse(capsys, place, "contains the input", *merge_, "--save", place / "merged")


def test_a_second_merge_keeps_other_files_in_the_folder(place):
    merge_ = [str(place / "ada.safetensors"), "--model", str(place / "base"), "--save", str(place / "merged")]
    main(merge_)
    others = {"notes.txt": b"mine", "loras/rex.safetensors": b"rex", "safety_checker/config.json": b"{}"}
    for name, text in others.items():
        (place / "merged" / name).parent.mkdir(exist_ok=True)
        (place / "merged" / name).write_bytes(text)
    main([str(place / "rex.safetensors"), *merge_])
    assert others.items() <= contents(place / "merged").items()
    assert "<rex>" in (place / "merged" / "tokenizer" / "added_tokens.json").read_text()
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_another_models_folder_is_replaced_only_on_request(place, capsys, tiny_folder):
    shutil.copytree(tiny_folder, place / "other")
    (place / "other" / "notes.txt").write_text("mine")
    merge_ = [place / "ada.safetensors", "--model", place / "base", "--save", place / "other"]
    refuse(capsys, place, "will not overwrite", *merge_)
    main([*map(str, merge_), "--overwrite"])
    assert (place / "other" / "notes.txt").read_text() == "mine"
    assert StableDiffusion.from_pretrained(place / "other").tokenizer.files.added


def test_an_export_does_not_replace_a_model_or_a_trained_adapter(place, capsys, tiny_sd):
    tiny_sd.save(place / "model.safetensors")
    for name in ("model.safetensors", "rex.safetensors"):
        refuse(capsys, place, "will not overwrite", "export", place / "ada.safetensors", "--out", place / name)
    main(["export", str(place / "ada.safetensors"), "--out", str(place / "rex.safetensors"), "--overwrite"])
    assert Adapter.load(place / "rex.safetensors").info.origin == "diffusers"


def test_files_of_tokens_do_not_replace_inputs(place, capsys, ada, rex):
    inputs = [place / "team.ada.safetensors", place / "team.rex.safetensors"]
    for adapter, path in zip((ada, rex), inputs, strict=True):
        adapter.save(path)
    refuse(capsys, place, "is an input", "export", *inputs, "--out", place / "team.safetensors")
    merge_ = [*inputs, "--model", place / "base", "--save", place / "team.safetensors"]
    refuse(capsys, place, "is an input", *merge_)
    refuse(
        capsys, place, "will not overwrite", "export", place / "ada.safetensors", "--out", place / "team.safetensors"
    )


def test_an_export_may_be_repeated(place):
    for _ in range(2):
        main(["export", str(place / "ada.safetensors"), "--out", str(place / "lora.safetensors")])


def test_functions_in_python_replace_files_only_on_request_too(place, tiny_sd, ada):
    import merge

    with pytest.raises(UserError, match="will not overwrite"):
        merge.export(ada, place / "rex.safetensors")
    merge.export(ada, place / "rex.safetensors", overwrite=True)
    loaded = StableDiffusion.from_pretrained(place / "base")
    with pytest.raises(UserError, match="is an input"):
        loaded.save(place / "base", overwrite=True)


def fit_args(*args: object) -> list[str]:
    return ["fit", *(str(arg) for arg in args)]


def test_two_adapters_of_one_name_are_not_written_to_one_file(place, capsys, ada):
    for folder in ("ann", "bob"):
        (place / folder).mkdir()
        ada.save(place / folder / "adapter.safetensors")
    inputs = [place / folder / "adapter.safetensors" for folder in ("ann", "bob")]
    options = ["--model", place / "base", "--out", place / "fused"]
    refuse(capsys, place, "cannot merge", *fit_args(*inputs, *options))  # they also have one token
    silent = [replace(ada, tokens={}), replace(ada, tokens={})]
    for adapter, path in zip(silent, inputs, strict=True):
        adapter.save(path)
    refuse(capsys, place, "give each file another name with --name", *fit_args(*inputs, *options))


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "..", ".hidden", "con", "a\nb", ""])
def test_a_name_from_a_file_cannot_lead_to_another_folder(place, capsys, ada, name):
    evil = replace(ada, info=replace(ada.info, name=name))
    evil.save(place / "evil.safetensors")
    options = ["--model", place / "base", "--out", place / "deep" / "fused"]
    refuse(capsys, place, "name", *fit_args(place / "evil.safetensors", place / "rex.safetensors", *options))


def test_fitted_adapters_are_replaced_only_on_request(place, capsys):
    inputs = [place / "ada.safetensors", place / "rex.safetensors"]
    (place / "fused").mkdir()
    shutil.copy(place / "ada.safetensors", place / "fused" / "ada.safetensors")
    options = ["--model", place / "base", "--out", place / "fused"]
    refuse(capsys, place, "will not overwrite", *fit_args(*inputs, *options))


def test_a_base_that_was_edited_on_purpose_is_read_on_request(place, capsys, tiny_sd, ada):
    tiny_sd.save(place / "saved")
    (place / "saved" / "scheduler" / "scheduler_config.json").write_text(
        (place / "base" / "scheduler" / "scheduler_config.json").read_text().replace("1000", "999")
    )
    merge_ = [place / "ada.safetensors", "--model", place / "saved", "--save", place / "new"]
    refuse(capsys, place, "--no-verify", *merge_)
    main([*map(str, merge_), "--no-verify"])
