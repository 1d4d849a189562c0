"""`python -m merge check` and `convert`, from files to the printed text."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

import merge
from blocklora_jax import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.command_line.runner import run
from blocklora_jax.io.heat_map import heat_map
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main


@pytest.fixture(scope="module")
def files(tiny_sd, tmp_path_factory):
    """Adapter files of the tiny model, by name. cyd collides with ada, eve has another base, foe has other layers."""
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {
        name: random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv")
        for name, slot in (("ada", 0), ("bob", 1), ("cyd", 0), ("eve", 2), ("foe", 3))
    }
    other = dataclasses.replace(adapters["eve"].info, base_digest="b" * 64)
    adapters["eve"] = dataclasses.replace(adapters["eve"], info=other)
    foe = {"unet": {path.replace("to_k", "to_z"): pair for path, pair in adapters["foe"].lora["unet"].items()}}
    adapters["foe"] = dataclasses.replace(adapters["foe"], lora=foe)
    adapters["plain"] = random_adapter("gil", tiny_sd.params, slots=(), partition=None, layers="cross_kv")
    for name, adapter in adapters.items():
        adapter.save(folder / f"{name}.safetensors")
    return {path.stem: str(path) for path in folder.iterdir()}


def check(capsys, *args: str) -> tuple[int, str]:
    code = 0
    try:
        run(lambda: main(["check", *args]))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_adapters_that_can_be_merged_give_exit_code_0_a_table_and_a_picture(files, tiny_folder, tmp_path, capsys):
    out = tmp_path / "deep" / "c.png"
    code, text = check(capsys, files["ada"], files["bob"], "--model", str(tiny_folder), "--out", str(out))
    assert (code, text.splitlines()[-1]) == (0, "2 of 2 adapters read; no problems")
    for kind in ("unet attn2/to_k", "unet attn2/to_v", "all layers"):
        table = re.search(
            rf"^{kind} +ada +bob +all others\nada +1\.000 +([\d.]+) +\1\nbob +([\d.]+) +1\.000 +\2\n", text, re.M
        )
        assert table
        assert float(table[1]) > 0
    with Image.open(out) as picture:
        assert picture.width > 3 * 64


def test_all_problems_are_listed_and_the_exit_code_is_1(files, tiny_folder, tmp_path, capsys):
    names = ("ada", "cyd", "eve", "foe", "ada", "plain")
    out = str(tmp_path / "c.png")
    code, text = check(
        capsys, *(files[n] for n in names), "missing.safetensors", "--model", str(tiny_folder), "--out", out
    )
    assert code == 1
    for problem in (
        "there is no adapter file missing.safetensors",
        "'ada' and 'cyd' both own slot 0",
        "both define the token <ada>",
        "trained on different models",
        "not the model that 'eve' was trained on",
        "the params do not have layers of 'foe'",
        "'ada' and 'gil' overlap, because 'gil' has no blocks",
    ):
        assert problem in text
    # Adapters that fit the model are measured nevertheless.
    assert re.search(r"^all layers +ada +cyd +eve +ada +gil +all others$", text, re.M)
    assert re.search(r"^6 of 7 adapters read; \d+ problems$", text, re.M)


def test_files_alone_can_be_checked_without_a_model(files, tmp_path, capsys):
    assert check(capsys, files["ada"], files["bob"], "--model", "nowhere", "--no-crosstalk")[0] == 0
    code, text = check(capsys, files["ada"], files["bob"], "--model", str(tmp_path / "nowhere"))
    assert code == 1
    assert "crosstalk was not measured: there is no folder" in text
    assert check(capsys)[0] == 2
    code, text = check(capsys, files["ada"], "--prompts", "a man")
    assert (code, text) == (2, "error: the prompt 'a man' has no {} for the concept's trigger\n")


def test_a_heat_map_is_redder_where_values_are_larger():
    picture = np.asarray(heat_map(np.array([[0.0, 0.5], [2.0, np.inf]]), ["a", "b"], ["a", "b"], "title")).astype(int)
    cells = [picture[36 * 2 + 36 * i + 4, -(64 * 2) - 6 + 64 * j + 4] for i in range(2) for j in range(2)]
    redness = [cell[0] - cell[1] for cell in cells]
    assert redness[0] < redness[1] < redness[2] == redness[3]


def test_a_lora_without_blocks_is_converted_and_can_be_merged(files, tiny_folder, tiny_sd, tmp_path, capsys):
    out = tmp_path / "gil.safetensors"
    options = [
        "--model",
        str(tiny_folder),
        "--basis",
        "None",
        "--blocks",
        "4",
        "--rank",
        "3",
        "--prompts",
        "16",
        "--random-prompts",
        "16",
    ]
    options += ["--random-styles", "a photo of", "--random-subjects", "dog", "owl", "--random-scenes", "in the snow"]
    registry = str(tmp_path / "r.json")
    main(["registry", "new", registry, "--blocks", "4"])
    main(["registry", "add", registry, "gil", "--slot", "3"])
    main(["convert", files["plain"], "--registry", registry, "--out", str(out), *options])
    assert "'gil' owns slot 3, called by '<gil> man'" in capsys.readouterr().out
    fitted = Adapter.load(out)
    assert (fitted.info.partition, fitted.info.slots, fitted.info.rank) == (Partition(num_blocks=4), (3,), 3)
    merge.compose(tiny_sd.params, [fitted, Adapter.load(files["ada"])])
    for args, message in (
        (["convert", files["plain"], "--out", str(out), *options], "give a slot for the adapter"),
        (["convert", files["ada"], "--slot", "1", "--out", str(out), *options], "already has blocks"),
        (["convert", files["plain"], "--slot", "1", "--out", files["plain"], *options], "is an input of this command"),
        (["convert", files["plain"], "--slot", "9", "--out", f"{out}.new", *options], "from 0 to 3"),
        (
            ["convert", files["plain"], "--slot", "1", "--registry", registry, "--out", str(out)],
            "registered for --slot 3",
        ),
        (
            ["convert", files["plain"], "--slot", "1", "--out", f"{out}.new"],
            "is another model: name the right one with --model",
        ),
        (["convert", files["plain"], "--slot", "1", "--out", str(out), *options], "will not overwrite"),
    ):
        with pytest.raises(SystemExit) as exit_:
            run(lambda args=args: main(args))
        error = capsys.readouterr().err
        assert (exit_.value.code, error.count("\n")) == (2, 1)
        assert message in error


def test_an_adapter_that_does_nothing_is_a_problem(files, tiny_folder, tmp_path, capsys):
    bob = Adapter.load(files["bob"])
    silent = {"unet": {path: pair._replace(lora_B=pair.lora_B * 0) for path, pair in bob.lora["unet"].items()}}
    dataclasses.replace(bob, lora=silent).save(tmp_path / "bob.safetensors")
    args = (
        files["ada"],
        str(tmp_path / "bob.safetensors"),
        "--model",
        str(tiny_folder),
        "--out",
        str(tmp_path / "c.png"),
    )
    code, text = check(capsys, *args, "--prompts", "a {0} {}")
    assert code == 1
    assert "problem: the crosstalk on the prompts of 'bob' is not finite" in text
    assert "no problems" not in text


def test_many_that_are_compared_must_have_tokens_and_a_base_in_common(files, tmp_path, capsys):
    ada = Adapter.load(files["ada"])
    same_token = dataclasses.replace(ada, info=dataclasses.replace(ada.info, name="hal"))
    same_token.save(tmp_path / "hal.safetensors")
    chosen = [files["ada"], files["bob"], files["eve"], str(tmp_path / "hal.safetensors")]
    code, text = check(capsys, *chosen, "--alike", "True", "--out", str(tmp_path / "map.png"))
    assert code == 1
    assert "problem: the adapters were trained on different models" in text
    assert "problem: 'ada' and 'hal' both define the token <ada>" in text
    assert text.splitlines()[-1] == "4 of 4 adapters read; 2 problems"
