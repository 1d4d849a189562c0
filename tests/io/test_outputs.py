"""What a command may write: never its inputs, and other files of the user only if asked to replace them."""

import numpy as np
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.outputs import KIND_KEY, Output, kind_of_file, plan_outputs
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.io.tensor_file import save_tensors


def picture(path, ours=True):
    image = picture_grid(np.zeros((1, 4, 4, 3), np.uint8))
    if ours:
        write_atomic(path, png_bytes(image))
    else:
        image.save(path)
    return path


def tensors(path, kind):
    save_tensors(path, {"x": np.zeros(2, np.float32)}, {KIND_KEY: kind} if kind else {})
    return path


def test_new_files_may_be_written(tmp_path):
    plan_outputs([Output(tmp_path / "deep" / "a.png", "picture"), Output(tmp_path / "model", "model folder", "--save")])
    assert list(tmp_path.iterdir()) == []


def test_a_hub_id_and_none_are_not_input_files_on_this_machine(tmp_path):
    plan_outputs([Output(tmp_path / "a.png", "picture")], ["someone/model", None, "pocket", "nul\0"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_must_not_be_an_input_under_any_name(tmp_path, overwrite, monkeypatch):
    source = tensors(tmp_path / "a.safetensors", "adapter")
    (tmp_path / "link.safetensors").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    for name in (source, tmp_path / "link.safetensors", "a.safetensors", tmp_path / "x" / ".." / "a.safetensors"):
        with pytest.raises(UserError, match="is an input of this command"):
            plan_outputs([Output(type(source)(name), "lora")], [source], overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_folder_must_not_contain_an_input_or_lie_in_one(tmp_path, overwrite):
    (tmp_path / "base" / "unet").mkdir(parents=True)
    source = tensors(tmp_path / "merged" / "loras" / "rex.safetensors", "adapter")
    for path, words in (
        (tmp_path / "merged", "contains the input"),
        (tmp_path / "base" / "new", "lies inside the input"),
    ):
        with pytest.raises(UserError, match=words):
            plan_outputs([Output(path, "model folder", "--save")], [source, tmp_path / "base"], overwrite=overwrite)
    with pytest.raises(UserError, match="lies inside the input"):
        plan_outputs([Output(tmp_path / "base" / "a.png", "picture")], [tmp_path / "base"], overwrite=overwrite)


def test_two_outputs_must_not_be_one_file(tmp_path):
    same = [Output(tmp_path / "a.safetensors", "adapter"), Output(tmp_path / "." / "a.safetensors", "adapter")]
    with pytest.raises(UserError, match="two outputs would be the same file"):
        plan_outputs(same)
    inside = [Output(tmp_path / "m" / "a.png", "picture"), Output(tmp_path / "m", "model folder", "--save")]
    for outputs in (inside, inside[::-1]):
        with pytest.raises(UserError, match="lie one inside the other"):
            plan_outputs(outputs)


@pytest.mark.parametrize(("kind", "make"), [("picture", picture), ("lora", tensors), ("model file", tensors)])
def test_a_command_may_replace_its_own_earlier_output(tmp_path, kind, make):
    path = tmp_path / ("a.png" if kind == "picture" else "a.safetensors")
    make(path) if kind == "picture" else make(path, kind)
    assert kind_of_file(path) == kind
    plan_outputs([Output(path, kind)])


def test_files_that_are_not_ours_or_of_another_kind_are_replaced_only_on_request(tmp_path):
    theirs = [
        Output(picture(tmp_path / "holiday.png", ours=False), "picture"),
        Output(tensors(tmp_path / "lora.safetensors", ""), "lora"),
        Output(tensors(tmp_path / "model.safetensors", "model file"), "lora"),
        Output(tensors(tmp_path / "adapter.safetensors", "adapter"), "lora"),
        Output(tensors(tmp_path / "trained.safetensors", "adapter"), "adapter"),
        Output(tmp_path / "broken.safetensors", "lora"),
        Output(tmp_path / "model", "model folder"),
    ]
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    for output in theirs:
        with pytest.raises(UserError, match="will not overwrite .*--overwrite"):
            plan_outputs([output])
        plan_outputs([output], overwrite=True)
    with pytest.raises(UserError) as error:
        plan_outputs(theirs)
    assert str(error.value).count("will not overwrite") == len(theirs)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_place_of_a_file_and_the_reverse_are_refused(tmp_path, overwrite):
    (tmp_path / "file").write_text("")
    for output, words in (
        (Output(tmp_path, "picture"), "is a folder, but a file"),
        (Output(tmp_path / "file", "model folder"), "a file of that name"),
        (Output(tmp_path / "file" / "a.png", "picture"), "is a file"),
    ):
        with pytest.raises(UserError, match=words):
            plan_outputs([output], overwrite=overwrite)
