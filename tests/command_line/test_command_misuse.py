"""Impossible numbers, texts and paths: one line names the flag, before anything is read or written."""

from __future__ import annotations

import importlib
import sys

import pytest

from blocklora_jax.command_line.runner import run

BIG = str(2**70)
CONCEPT = ["--images", "ada", "--token", "<ada>", "--class-noun", "woman", "--out", "run"]
CASES = [
    ("merge", ["a.s", "--prompt", "x", "--seed", BIG], "--seed must be at most 4294967295"),
    ("merge", ["a.s", "--prompt", "x", "--seed", "-1"], "--seed must be at least 0, not -1"),
    ("merge", ["a.s", "--prompt", "x", "--steps", str(10**12)], "--steps must be at most 10000000"),
    ("merge", ["a.s", "--prompt", "x", "--guidance-scale", "nan"], "--guidance-scale must be a finite number, not nan"),
    ("merge", ["a.s", "--weights", "nan"], "--weights must be a finite number, not nan"),
    ("merge", ["a.s", "--weights", "1", "inf"], "--weights must be at most 1000000, not inf"),
    ("merge", ["a.s", "--weights", "1e30"], "--weights must be at most 1000000, not 1e+30"),
    ("merge", ["a.s", "--prompt", "\udcff"], r"--prompt '\udcff' is not valid text"),
    ("merge", ["a.s", "--out", ""], "--out must not be empty"),
    ("merge", ["a.s", "--out=", "--prompt", "x"], "--out must not be empty"),
    ("merge", ["a.s", "--model", " "], "--model must not be empty"),
    ("merge", ["", "--prompt", "x"], "a file or name must not be empty"),
    ("merge", ["frobnicate"], "unknown command 'frobnicate': choose info, check, export"),
    ("merge", ["exprot", "a.safetensors"], "did you mean 'export'?"),
    ("merge", ["registry", "lst", "r.json"], "did you mean 'list'?"),
    ("merge", ["export", "a.s", "--out", "x.safetensors", "--max-rank", "0"], "--max-rank must be at least 1, not 0"),
    ("merge", ["check", "a.s", "--steps", "0"], "--steps must be at least 1"),
    ("merge", ["check", "a.s", "--prompts", "{"], "the prompt '{' has no {}"),
    ("merge", ["fit", "a.s", "b.s", "--out", "o", "--lambda", "nan"], "--lambda must be at least 0, not nan"),
    ("merge", ["fit", "a.s", "b.s", "--out", "o", "--trigger", "", "x"], "--trigger must not be empty"),
    ("merge", ["fit", "a.s", "b.s", "--out", "o", "--memory", "0"], "--memory must be above 0, not 0"),
    ("merge", ["tune", "a.s", "b.s", "--out", "o", "--steps", "0"], "--steps must be at least 1, not 0"),
    ("merge", ["tune", "a.s", "--out", "o"], "name two or more adapter files"),
    ("merge", ["check", "a.s", "--memory", "nan"], "--memory must be above 0, not nan"),
    ("merge", ["convert", "a.s", "--out", "o", "--memory", "-1"], "--memory must be above 0, not -1"),
    ("merge", ["convert", "a.s", "--out", "o", "--blocks", str(10**9)], "--blocks must be at most 65536"),
    ("merge", ["convert", "a.s", "--out", "o", "--blocks", "0"], "--blocks must be at least 1, not 0"),
    ("merge", ["convert", "a.s", "--out", "o", "--rank", str(10**7)], "--rank must be at most 4096"),
    ("merge", ["plan", "--concepts", str(10**9)], "--concepts must be at most 65536"),
    ("merge", ["plan", "--concepts", "5", "--slots", "0"], "--slots must be at least 1, not 0"),
    ("merge", ["registry", "new", "r", "--blocks", "0"], "--blocks must be at least 1, not 0"),
    ("merge", ["registry", "add", "r", "x", "--count", str(10**7)], "--count must be at most 65536"),
    ("merge", ["registry", "add", "r", "x", "--slot", "-1"], "--slot must be at least 0, not -1"),
    ("merge", ["registry", "drop", "r", " "], "NAME must not be empty"),
    ("merge", ["replace", "m", "ada", "a.s", "--out", "o", "--weight", "nan"], "--weight must be a finite number"),
    ("train.concept", [*CONCEPT, "--rank", str(10**9)], "--rank must be at most 4096, not 1000000000"),
    ("train.concept", [*CONCEPT, "--resolution", "100000"], "--resolution must be at most 4096, not 100000"),
    ("train.concept", [*CONCEPT, "--batch", str(10**9)], "--batch must be at most 65536"),
    ("train.concept", [*CONCEPT, "--token-vectors", str(10**6)], "--token-vectors must be at most 75"),
    ("train.concept", [*CONCEPT, "--lambda", "nan"], "--lambda must be at least 0, not nan"),
    ("train.concept", [*CONCEPT, "--alpha", "inf"], "--alpha must be at most 1000000, not inf"),
    ("train.concept", [*CONCEPT, "--text-learning-rate", "nan"], "--text-learning-rate must be at least 0, not nan"),
    ("train.concept", [*CONCEPT, "--seed", BIG], "--seed must be at most 4294967295"),
    ("train.concept", [*CONCEPT, "--slot"], "--slot is given without a value"),
    ("train.concept", [*CONCEPT, "--images", ""], "--images must not be empty"),
    ("train.concept", [*CONCEPT, "--variant", ""], "--variant must not be empty"),
    ("train.concept", [*CONCEPT, "--class-noun", "a\udcff"], r"--class-noun 'a\udcff' is not valid text"),
    ("train.concepts", ["--concepts", "x", "--out", "o", "--at-once", "0"], "--at-once must be at least 1, not 0"),
    ("train.concepts", ["--concepts", "", "--out", "o"], "--concepts must not be empty"),
    ("train.basis", ["--out", "b", "--prompts", str(10**9)], "--prompts must be at most 10000000"),
    ("train.basis", ["--out", "b", "--codewords.chunk", "0"], "--codewords.chunk must be at least 1, not 0"),
    ("train.basis", ["--out", "b", "--codewords.vectors", "0"], "--codewords.vectors must be at least 1, not 0"),
    ("train.basis", ["--out", "b", "--codewords.steps", "-3"], "--codewords.steps must be at least 1, not -3"),
    ("train.basis", ["--out", "b", "--codewords.prompts", "0"], "--codewords.prompts must be at least 1, not 0"),
    ("train.basis", ["--out", "b", "--codewords.limit", "-1"], "--codewords.limit must be above 0, not -1"),
    ("train.basis", ["--out", "b", "--codewords.seed", "-1"], "--codewords.seed must be at least 0, not -1"),
    ("train.basis", ["--out", "b", "--codewords.learning-rate", "nan"], "--codewords.learning-rate must be above 0"),
    ("train.negative_tokens", ["", "--out", "b"], "a file or name must not be empty"),
    ("train.base", ["--pictures", "0"], "--pictures must be at least 1, not 0"),
    ("train.base", ["--seed", BIG], "--seed must be at most 4294967295"),
    ("train.base", ["--vae-learning-rate", "nan"], "--vae-learning-rate must be at least 0, not nan"),
    ("train.base", ["--judge-individuals", "1"], "--judge-individuals must be at least 2, not 1"),
    ("benchmarks.modular", ["--seeds"], "--seeds is given without a value"),
    ("benchmarks.modular", ["--counts", "1", "0"], "--counts must be at least 1, not 0"),
    ("benchmarks.modular.rates", ["--rates", "nan"], "--rates must be at least 0, not nan"),
    ("benchmarks.modular.narrow", ["--blocks", "0"], "--blocks must be at least 1, not 0"),
    (
        "benchmarks.modular.layer_error",
        ["--run", "nothing"],
        "nothing/seed-4/token has no person00/adapter.safetensors",
    ),
    ("benchmarks.modular.ablation", ["--concepts", "0"], "--concepts must be at least 1, not 0"),
    ("benchmarks.modular.distractors", ["--draws", str(10**9)], "--draws must be at most 65536"),
    ("benchmarks.training", ["--rounds", "0"], "--rounds must be at least 1, not 0"),
    ("benchmarks.compose", ["--ranks", "4", "0"], "--ranks must be at least 1, not 0"),
    ("blocklora_jax.pocket.world_sheet", ["--columns", "0"], "--columns must be at least 1, not 0"),
]


@pytest.mark.parametrize(("module", "args", "text"), CASES, ids=lambda case: case if isinstance(case, str) else "-")
def test_misuse_is_one_line_and_writes_nothing(module, args, text, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *args])
    packages = ("merge", "benchmarks.modular", "train.concept", "train.base")
    name = f"{module}.__main__" if module in packages else module
    main = importlib.import_module(name).main
    with pytest.raises(SystemExit) as stop:
        run(main)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert text in error
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_the_help_is_printed(monkeypatch, capsys):
    main = importlib.import_module("merge.__main__").main
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    assert "--prompt" in capsys.readouterr().out


def test_an_empty_prompt_is_allowed():
    options = importlib.import_module("merge.cli.options")
    made = options.MergeOptions(files=(), prompt=("",), negative_prompt="")
    assert made.prompt == ("",)
