"""The command line: what it writes, and one line for every error."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import merge
from blocklora_jax import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import VERBS, main


@pytest.fixture
def files(tiny_sd, tmp_path):
    """Two adapter files of the tiny model, on slots 0 and 1."""
    paths = [tmp_path / "ada.safetensors", tmp_path / "bob.safetensors"]
    for slot, path in enumerate(paths):
        random_adapter(path.stem, tiny_sd.params, slots=(slot,), layers="cross_kv").save(path)
    return [str(path) for path in paths]


def fail(capsys, *args: str) -> str:
    """The one line that the command prints before it gives up."""
    with pytest.raises(SystemExit) as exit_:
        run(lambda: main(args))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_pictures_are_those_that_the_python_functions_make(files, tiny_folder, tiny_sd, tmp_path):
    prompts = ["a photo of <ada> man", "a photo of <bob> dog"]
    out = tmp_path / "deep" / "pictures.png"
    main([*files, "--prompt", *prompts, "--model", str(tiny_folder), "--out", str(out), "--steps", "2", "--seed", "3"])
    adapters = [Adapter.load(file) for file in files]
    params = merge.compose(tiny_sd.params, adapters)
    images = tiny_sd.generate(prompts, params=params, adapters=adapters, seed=3, steps=2)
    scale = 256 // images.shape[1]
    left = np.asarray(Image.open(out))[4 : 4 + 256, 4 : 4 + 256].astype(int)
    expected = np.asarray(Image.fromarray(images[0]).resize((256, 256), Image.Resampling.LANCZOS)).astype(int)
    assert scale == 16
    # The command merges with NumPy, this test with XLA. They differ in the last bit.
    assert np.abs(left - expected).max() <= 1


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_help_lists_every_verb_and_method_one_a_line(args, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, help_ in [(v.name, v.help) for v in VERBS.values() if v.name != "merge"] + [
        (name, method.help) for name, method in merge.METHODS.items()
    ]:
        assert [name, *help_.split()] in lines


def test_info_says_what_is_in_a_file(files, capsys):
    main(["info", *files])
    text = capsys.readouterr().out
    for part in ("ada (object, class noun 'man')", "<ada> (2 vectors)", "slots 0 of 4, axis 'in', seed 0", "rank"):
        assert part in text
    assert "small, digest" in text
    assert "of unet" in text


def test_info_of_an_unblocked_adapter_says_so(tiny_sd, tmp_path, capsys):
    random_adapter("ada", tiny_sd.params, slots=(), partition=None, vectors=0).save(tmp_path / "a.safetensors")
    main(["info", str(tmp_path / "a.safetensors")])
    assert "an ordinary LoRA" in capsys.readouterr().out


def test_allowed_overlap_is_reported(files, tiny_sd, tmp_path, capsys):
    random_adapter("cyd", tiny_sd.params, slots=(0,), layers="cross_kv").save(tmp_path / "cyd.safetensors")
    out = str(tmp_path / "out.safetensors")
    main(["export", files[0], str(tmp_path / "cyd.safetensors"), "--out", out, "--allow-overlap"])
    assert "'ada' and 'cyd' are summed where they overlap, in" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["info"], ["export"]])
def test_help_explains_where_adapters_come_from(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "adapter.safetensors of training" in text


def test_bad_input_is_one_line(files, tiny_sd, tiny_folder, tmp_path, capsys):
    collision = str(tmp_path / "cyd.safetensors")
    random_adapter("cyd", tiny_sd.params, slots=(0,), layers="cross_kv").save(collision)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((tmp_path / "ada.safetensors").read_bytes()[:500])
    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(2, np.float32)}, other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    png, model = str(tmp_path / "p.png"), ["--model", str(tiny_folder)]
    picture = ["--prompt", "a man", "--out", png, *model]
    cases = [
        ([files[0], collision, *picture], "'ada' and 'cyd' both own slot 0"),
        ([files[0], files[0], *picture], "both define the token <ada>"),
        ([*files, "--weights", "1", *picture], "1 weights for 2 adapters"),
        ([files[0], "missing.safetensors", *picture], "there is no adapter file missing.safetensors"),
        ([files[0], str(torn), *picture], "torn.safetensors is not a complete safetensors file"),
        ([str(other), *picture], "not a blocklora adapter"),
        (files, "there is nothing to do"),
        (["--prompt", "a man"], "name at least one adapter file"),
        ([*files, "--prompt", "a man", "--model", str(tmp_path / "nowhere")], "there is no folder"),
        ([*files, "--prompt", "a man", "--out", files[0], *model], "is an input of this command"),
        ([*files, "--save", str(tmp_path / "full"), *model], "will not overwrite"),
        ([*files, "--prompt", "a (man:99)", "--out", png, *model], "the weight of 'man' must be at most 10"),
        (["export", *files, "--out", files[1]], "is an input of this command"),
        (["export", *files, "--out", str(tmp_path / "x.bin")], "must end in .safetensors"),
        (
            ["export", *files, "--out", str(tmp_path / "x.safetensors"), "--layout", "other"],
            "this version writes diffusers, kohya",
        ),
        (["info", "missing.safetensors"], "there is no adapter file"),
        (["info"], "name at least one adapter file"),
    ]
    for args, text in cases:
        assert text in fail(capsys, *args)
    assert not (tmp_path / "p.png").exists()


def test_files_of_another_base_are_refused(files, tiny_folder, tiny_sd, tmp_path, capsys):
    adapter = random_adapter("eve", tiny_sd.params, slots=(2,), layers="cross_kv")
    params = merge.compose(tiny_sd.params, [adapter])
    tiny_sd.save(tmp_path / "merged", params=params, adapters=[adapter])
    error = fail(capsys, *files, "--prompt", "a man", "--model", str(tmp_path / "merged"))
    assert "not the model that 'ada' was trained on" in error


def test_unknown_flags_are_refused(files):
    with pytest.raises(SystemExit) as exit_:
        main([*files, "--wieghts", "1"])
    assert exit_.value.code == 2


def test_unusable_token_names_are_refused_on_export(tiny_sd, tmp_path):
    adapter = random_adapter("a/b", tiny_sd.params, slots=(0,))
    with pytest.raises(UserError, match="cannot name a file"):
        merge.export(adapter, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_merge_imports_neither_flax_nor_train_nor_torch():
    code = (
        "import sys, merge, merge.__main__; "
        "print([m for m in ('flax', 'train', 'torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_files_keep_their_partitions(files):
    assert Adapter.load(files[1]).info.partition == Partition(num_blocks=4)
