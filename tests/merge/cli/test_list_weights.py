"""Weights in a library's list: in what `check` measures, and in what `fit` and `convert` make."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from merge_builders import flatten, make_adapter, make_params

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.library.yaml_file import FILE
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli import fit
from merge.cli.list_weights import weighed
from merge.cli.main import main

NAMES = ("ada", "bob", "cyd")


@pytest.fixture
def folder(tiny_sd, tmp_path):
    """Three LoRAs without blocks, and their list."""
    for name in NAMES:
        adapter = random_adapter(name, tiny_sd.params, slots=(), partition=None, layers="cross_kv")
        adapter.save(tmp_path / "loras" / f"{name}.safetensors")
    main(["library", "scan", str(tmp_path / "loras")])
    return tmp_path / "loras"


def weigh(folder, name: str, weight: float) -> None:
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(re.sub(rf"(file: {name}.*?weight: )\S+", rf"\g<1>{weight}", text, count=1, flags=re.S))


def test_a_weighed_adapter_is_the_adapter_with_that_weight():
    params, adapter = make_params(), make_adapter("ada", partition=None)
    adapter = replace(adapter, vectors={"unet/mid_block/attentions_0/proj_in/bias": np.ones(19, np.float32)})
    one = flatten(merge.compose(params, [weighed(adapter, 0.25)]))
    other = flatten(merge.compose(params, [adapter], [0.25]))
    for path, array in one.items():
        np.testing.assert_allclose(array, other[path], atol=1e-6)  # alpha / rank is rounded once more
    assert weighed(adapter, 1) is adapter


def check(capsys, folder, tiny_folder, *options: str) -> str:
    """What `check` prints of the list. LoRAs without blocks overlap, which is a problem only without `--alike`."""
    capsys.readouterr()
    args = ["--model", str(tiny_folder), "--out", str(folder.parent / "c.png"), "--overwrite", *options]
    with suppress(SystemExit):
        main(["check", str(folder), *args])
    return capsys.readouterr().out


@pytest.mark.parametrize("line", [r"^ada +([\d.]+)", r"^bob +([\d.]+)"], ids=["disturbs", "crosstalk"])
def test_check_measures_with_the_weights(folder, tiny_folder, capsys, line):
    options = ("--alike", str("ada" in line))
    whole = float(re.findall(line, check(capsys, folder, tiny_folder, *options), re.M)[-1])
    weigh(folder, "ada", 0.5)
    if "bob" in line:  # the sum for ada is over two others, of which this leaves one
        weigh(folder, "cyd", 0)
    text = check(capsys, folder, tiny_folder, *options)
    assert float(re.findall(line, text, re.M)[-1]) == pytest.approx(whole / 2, abs=2e-3)  # three digits are printed
    assert "3 of 3 adapters read" in text
    assert bool(re.search("^cyd ", text, re.M)) == ("ada" in line)


def test_fit_multiplies_them_in_and_says_so(folder, tiny_folder, tmp_path, capsys, monkeypatch):
    words = PromptWords(styles=("a photo of",), subjects=("dog",), scenes=("on the beach",))
    monkeypatch.setattr("blocklora_jax.pocket.prompt_words.words_for", lambda name: words)
    monkeypatch.setattr(fit, "fit_jointly", lambda sd, adapters, **options: adapters)
    weigh(folder, "bob", 0.5)
    args = ["fit", str(folder), "--model", str(tiny_folder), "--out", str(tmp_path / "out")]
    main(args)
    assert "weights of the library that are multiplied in: 0.5 of bob\n" in capsys.readouterr().out
    scales = [
        Adapter.load(f"{place}/{name}.safetensors").info.scale for place in (tmp_path / "out", folder) for name in NAMES
    ]
    assert scales[:3] == [scales[3], 0.5 * scales[4], scales[5]]
    for weight, message in ((0, "'bob' has the weight 0 in the library"), (1e6, "is too large")):
        weigh(folder, "bob", weight)
        with pytest.raises(UserError, match=message):
            main([*args, "--overwrite"])
