"""Settings without effect are refused before anything is read. Runs that have them can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from concept_builders import make_config

from blocklora_jax.errors import UserError
from train.concept.config import parse_args
from train.concept.groups import train_concepts
from train.concept.run import train_on_base
from train.concept.unused_settings import refuse_unused, unused_settings, without_unused

FLAGS = ["--images", "pics", "--token", "<bo>", "--class-noun", "dog", "--out", "run"]
FOLDER, READS_PICTURES = Path("class"), {"layers": "attention"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"class_images": FOLDER},
            "--class-images .*: --layers cross_kv .* read only .*choose --erase preserve or eps",
        ),
        ({"other_images": FOLDER}, "--other-images .*choose --erase epsilon, or layers that read the picture"),
        ({"pure_noise": 0.5, "layers": "cross_kv+text_encoder"}, r"--pure-noise .*: --layers cross_kv\+text_encoder "),
        ({"class_images": FOLDER, "erase": "none"}, "--class-images .*: --erase none has no random rows"),
        ({"class_images": FOLDER, "erase_weight": 0.0}, "--class-images .*no random rows: give --lambda and --random"),
        ({"other_images": FOLDER, "random_batch": 0, **READS_PICTURES}, "--other-images .* there are no random rows"),
        ({"pure_noise": 0.5, "erase": "preserve"}, "--pure-noise .* of --erase preserve are pictures of the concept"),
    ],
)
def test_pictures_that_no_random_row_shows_are_refused(changes, words, tmp_path):
    config = make_config(out=tmp_path / "run", **changes)
    with pytest.raises(UserError, match=f"^{words}.*, or leave it out$"):
        train_on_base(config, lambda: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=f"^{words}"):
        train_concepts([config], tmp_path / "groups", platform="cpu")
    assert not list(tmp_path.iterdir())
    refuse_unused([config.with_settings(resume=True), without_unused(config)])


@pytest.mark.parametrize(
    "changes",
    [
        {"pure_noise": 0.3},
        {"erase": "preserve", "class_images": FOLDER, "random_batch": 2},
        {"erase": "epsilon", "class_images": FOLDER, "other_images": FOLDER, "pure_noise": 0.5},
        {"layers": "attention", "class_images": FOLDER, "other_images": FOLDER, "pure_noise": 0.0},
    ],
)
def test_pictures_that_random_rows_show_are_used(changes):
    config = make_config(**changes)
    assert unused_settings(config) == {}
    assert without_unused(config) == config


def test_the_defaults_do_not_use_pictures_of_the_class():
    with pytest.raises(UserError, match="--class-images has no effect here: --layers cross_kv"):
        refuse_unused([parse_args([*FLAGS, "--class-images", "class"])])
    refuse_unused([parse_args([*FLAGS, "--class-images", "class", "--erase", "preserve"]), parse_args(FLAGS)])


def test_files_of_negative_tokens_are_refused_beside_codewords(tmp_path):
    config = parse_args([*FLAGS, "--negative-tokens", "missing.safetensors"]).with_settings(out=tmp_path / "run")
    words = "^--negative-tokens has no effect here: --negatives-from codewords .*choose --negatives-from nouns, or"
    with pytest.raises(UserError, match=words):
        train_on_base(config, lambda: pytest.fail("the model is loaded"))
    refuse_unused([config.with_settings(resume=True), without_unused(config)])
    # Without a value, and with settings that draw around nouns, such as those of feature_blocks.
    refuse_unused([parse_args([*FLAGS, "--negative-tokens"]), make_config(negative_tokens=("a",))])
    with pytest.raises(UserError, match="prompts of --erase preserve have no negative tokens"):
        refuse_unused([make_config(negative_tokens=("a",), erase="preserve")])
