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
    assert "problem: 'ada' and 'hal' both own slot 0" in text
    assert text.splitlines()[-1] == "4 of 4 adapters read; 3 problems"


@pytest.fixture(scope="module")
def thirteen(tiny_sd, tmp_path_factory):
    """Thirteen adapters in slots of their own, but c12, which is in slot 11 too."""
    folder = tmp_path_factory.mktemp("thirteen")
    for i in range(13):
        random_adapter(
            f"c{i}", tiny_sd.params, slots=(min(i, 11),), partition=Partition(num_blocks=16), layers="cross_kv"
        ).save(folder / f"c{i}.safetensors")
    return folder


def test_many_must_have_slots_of_their_own_and_one_base(thirteen, tiny_sd, tiny_folder, tmp_path, capsys):
    common = ("--model", str(tiny_folder), "--out", str(tmp_path / "m.png"), "--overwrite")
    code, text = check(capsys, str(thirteen), *common)
    assert code == 1
    assert re.search(r"problem: 'c1[12]' and 'c1[12]' both own slot 11", text)
    assert text.splitlines()[-1] == "13 of 13 adapters read; 1 problem"
    # A quotient of rounding errors is no advice.
    assert "times as much as the median" not in text
    c12 = Adapter.load(thirteen / "c12.safetensors")
    for change, message in (
        ({"slots": (12,)}, "no problems"),
        ({"slots": (12,), "partition": Partition(num_blocks=16, seed=1)}, "their partitions differ"),
    ):
        info = dataclasses.replace(c12.info, **change)
        random = random_adapter("c12", tiny_sd.params, slots=info.slots, partition=info.partition, layers="cross_kv")
        random.save(tmp_path / "c12.safetensors")
        files = [str(thirteen / f"c{i}.safetensors") for i in range(12)]
        code, text = check(capsys, *files, str(tmp_path / "c12.safetensors"), *common)
        assert message in text
        assert code == int(message != "no problems")
    wider = {p: pair._replace(lora_B=np.pad(pair.lora_B, ((0, 0), (0, 1)))) for p, pair in c12.lora["unet"].items()}
    info = dataclasses.replace(c12.info, base_digest="", partition=None, slots=())
    dataclasses.replace(c12, lora={"unet": wider}, info=info).save(tmp_path / "c12.safetensors")
    code, text = check(capsys, *files, str(tmp_path / "c12.safetensors"), *common)
    assert code == 1
    assert "'c0' and 'c12' differ in the shapes of" in text
    assert "so do 9 other pairs" in text
    assert "layers of 'c12' have other shapes" in text


def test_many_are_checked_against_the_model_that_they_were_trained_on(thirteen, tiny_folder, tmp_path, capsys):
    files = [str(thirteen / f"c{i}.safetensors") for i in range(3)]
    common = ("--alike", "True", "--out", str(tmp_path / "m.png"), "--overwrite")
    code, text = check(capsys, *files, *common)
    assert code == 1
    assert "not the model that 'c0' was trained on" in text
    assert check(capsys, *files, *common, "--no-check-base")[0] == 0
    assert check(capsys, *files, *common, "--no-crosstalk")[0] == 0
    assert check(capsys, *files, *common, "--model", str(tiny_folder))[0] == 0
    code, text = check(capsys, *files, *common, "--prompts", "a {}", "--steps", "2")
    assert (code, text.count("\n")) == (2, 1)
    assert "--prompts, --steps is for measuring crosstalk" in text
