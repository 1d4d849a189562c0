"""`python -m merge --method NAME`: each method's result, its own flags, its manifest, and the old names of verbs."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from merge_builders import same_bits

import blocklora_jax.checks.renamed as renamed
import merge
import merge.manifest
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.renamed import RENAMED
from blocklora_jax.command_line.runner import run
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing import input_statistics, token_tuning
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import VERBS, main
from merge.cli.method_flags import options_of
from merge.manifest import read_merge_manifest

WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "man"), scenes=("on the beach",))
# Some flags of each method, and the settings that they give.
FLAGS = {
    "sum": (["--allow-overlap"], {"allow_overlap": True}),
    "average": ([], {}),
    "ties": (["--density", "0.5"], {"density": 0.5}),
    "dare": (["--density", "0.7", "--mask-seed", "3"], {"density": 0.7, "mask_seed": 3}),
    "dare_ties": (["--density", "0.7", "--mask-seed", "3"], {"density": 0.7, "mask_seed": 3}),
    "magnitude": (["--density", "0.5"], {"density": 0.5}),
    "svd": (["--max-rank", "1"], {"max_rank": 1}),
    "knots": (["--density", "0.5"], {"density": 0.5}),
    "ssr": (["--ridge", "0.01"], {"ridge": 0.01}),
    "gradient_fusion": (["--ridge", "0.01"], {"ridge": 0.01}),
    "joint_fit": (["--lambda", "2", "--keep-strength"], {"erase_weight": 2.0, "keep_strength": True}),
    "tuned_tokens": (["--token-steps", "2", "--allow-overlap"], {"token_steps": 2, "allow_overlap": True}),
}


@pytest.fixture(scope="module")
def files(tiny_sd, tmp_path_factory):
    """Two adapter files of the tiny model that share a slot."""
    paths = [tmp_path_factory.mktemp("adapters") / f"{name}.safetensors" for name in ("ada", "bob")]
    for path in paths:
        random_adapter(path.stem, tiny_sd.params, slots=(0,), layers="cross_kv").save(path)
    return [str(path) for path in paths]


def fail(capsys, *args: str) -> str:
    """The one line that the command prints before it gives up."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run(lambda: main(args))
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    return error


def test_every_method_is_covered():
    assert FLAGS.keys() == merge.METHODS.keys()


@pytest.mark.parametrize("method", FLAGS)
def test_a_saved_folder_is_the_result_of_the_method_in_python(
    method, files, tiny_folder, tmp_path, capsys, monkeypatch
):
    # The tiny model reads 24 tokens. Prompts of the usual words are longer.
    for module in (input_statistics, token_tuning):
        monkeypatch.setattr(module, "words_for", lambda name: WORDS)
    flags, settings = FLAGS[method]
    out = tmp_path / "merged"
    main([*files, "--method", method, *flags, "--weights", "1", "0.5", "--model", str(tiny_folder), "--save", str(out)])
    sd = StableDiffusion.from_pretrained(str(tiny_folder))
    sd = replace(sd, params=sd.checkpoint.params)
    way = merge.METHODS[method]
    merged = way.merge(sd, [Adapter.load(file) for file in files], (1.0, 0.5), way.settings(**settings))
    saved = StableDiffusion.from_pretrained(str(out)).checkpoint.params
    assert all(jax.tree.leaves(jax.tree.map(same_bits, saved, jax.tree.map(np.asarray, merged.params))))
    manifest = read_merge_manifest(out)
    # Tuned tokens change nothing about the weights, which are a sum.
    assert (manifest.method, manifest.weights) == ("sum" if way.sums else method, (1.0, 0.5))
    text = json.loads((out / "blocklora.json").read_text())["merge"]
    if way.sums:
        assert not {"method", "settings"} & text.keys()
    else:
        assert manifest.settings == vars(way.settings(**settings))
        error = fail(capsys, "remove", str(out), "ada", "--out", str(tmp_path / "x"))
        assert f"merged by the method {method!r}" in error
        assert f"--method {method}" in error
        error = fail(capsys, "replace", str(out), "ada", files[0], "--out", str(tmp_path / "x"))
        assert f"merged by the method {method!r}" in error
        assert not (tmp_path / "x").exists()


def test_a_picture_can_be_made_by_any_method(files, tiny_folder, tmp_path):
    out = tmp_path / "p.png"
    picture = ["--prompt", "a photo of <ada> man", "--steps", "1", "--out", str(out), "--model", str(tiny_folder)]
    main([*files, "--method=average", *picture])
    assert out.read_bytes().startswith(b"\x89PNG")


def test_help_of_a_method_shows_its_own_settings_only(capsys):
    def help_of(*args: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([*args, "--help"])
        assert exit_.value.code == 0
        return capsys.readouterr().out

    ties, plain = help_of("--method", "ties"), help_of()
    assert "--density FLOAT" in ties
    assert "--allow-overlap" not in ties
    assert "--allow-overlap" in plain
    assert "--density" not in plain


def test_an_error_about_a_method_is_one_line(files, capsys):
    cases = [
        (
            ["--density", "0.5"],
            "--density is a setting of the method ties, dare, dare_ties, magnitude or knots, not of sum: leave",
        ),
        (
            ["--method", "ties", "--allow-overlap"],
            "--allow-overlap is a setting of the method sum or tuned_tokens, not of ties",
        ),
        (["--method", "dare", "--no-attention"], "--attention is a setting of the method joint_fit, not of dare"),
        (["--method", "dare", "--mask_seed=-1"], "--mask-seed must be at least 0, not -1"),
        (["--method", "ties", "--density", "0"], "--density must be above 0 and at most 1, not 0"),
        (["--method", "tie"], "unknown method 'tie': choose sum, average, ties, "),
        (["--method", "tie"], "did you mean 'ties'?"),
        (["--method", "fit", "--density", "1"], "not of joint_fit"),
        (["--method=fusion", "--density", "1"], "not of gradient_fusion"),
        (["--save", "x"], "'ada' and 'bob' both own slot 0"),
    ]
    for args, text in cases:
        assert text in fail(capsys, *files, *args)


def test_the_options_of_a_method_hold_its_settings():
    made = options_of("ties")(files=())
    assert made.method_settings == merge.METHODS["ties"].settings()
    assert options_of("sum")(files=()).method_settings == merge.METHODS["sum"].settings()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_verb_works_and_names_the_new_one(old, new, capsys):
    assert new in VERBS
    assert old not in VERBS
    with pytest.raises(SystemExit) as exit_:
        main([old, "--help"])
    captured = capsys.readouterr()
    assert exit_.value.code == 0
    assert captured.out.startswith(f"usage: python -m merge {new} ")
    assert captured.err == f"note: `{old}` is now called `{new}`; the old name will be removed in version 0.3\n"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (merge, "fuse", "gradient_fusion"),
        (merge, "fuse_adapters", "fit_jointly"),
        (merge, "refocus", "fit_to_inputs"),
        (merge.manifest, "MergeRecord", "MergeManifest"),
        (merge.manifest, "outline", "without_values"),
        (merge.manifest, "read_record", "read_merge_manifest"),
    ],
)
def test_an_old_name_in_python_is_the_new_object_with_a_warning(module, old, new):
    name = module.__name__
    with pytest.warns(DeprecationWarning, match=re.escape(f"{name}.{old} is now {name}.{new}; the old name will be")):
        assert getattr(module, old) is getattr(module, new)


def test_an_unknown_name_is_an_attribute_error():
    get = renamed.old_names("math", {"squareroot": "sqrt"})
    with pytest.raises(AttributeError, match="module 'math' has no attribute 'cube'"):
        get("cube")
