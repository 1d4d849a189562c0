"""`--config`: a path, the name of a shipped configuration, or its old name."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocklora_jax.errors import UserError
from train.concept.config import parse_args, read_flags
from train.concept.config_files import find_config, shipped_configs
from train.concept.settings.old_names import OLD_CONFIGS
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions

CONFIGS = Path(__file__).parents[3] / "configs"


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(Path("ada")) == CONFIGS / "ada.yaml"
    # A folder of pictures with this name is not a configuration.
    (tmp_path / "ada").mkdir()
    config = parse_args(["--config", "ada", "--out", "run"])
    assert (config.token, config.out) == ("<ada>", Path("run"))
    (tmp_path / "rex").write_text("rank: 4")
    assert find_config(Path("rex")) == Path("rex")


@pytest.mark.parametrize(("old", "new"), OLD_CONFIGS.items())
def test_an_old_name_stands_for_the_new_one(old, new, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(CONFIGS.parent)
    assert find_config(Path(f"configs/{old}.yaml")) == Path(f"configs/{new}.yaml")
    assert find_config(Path(old)) == CONFIGS / f"{new}.yaml"
    assert capsys.readouterr().err.splitlines() == [
        f"--config configs/{old}.yaml is now called configs/{new}.yaml",
        f"--config {old} is now called {new}",
    ]
    mine = tmp_path / f"{old}.yaml"
    assert find_config(mine) == mine
    mine.write_text("rank: 4")
    assert find_config(mine) == mine
    assert capsys.readouterr().err == ""


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"--config adda is neither a file nor a shipped configuration \(ada, feature_blocks, one"
    ):
        find_config(Path("adda"))
    assert set(OLD_CONFIGS.values()) < shipped_configs().keys()


def test_only_files_that_fit_are_listed():
    with pytest.raises(UserError, match=r"neither a file nor a shipped configuration \(ada, ") as told:
        find_config(Path("pocket_sevn"))
    assert "pocket_seven" not in str(told.value)
    with pytest.raises(
        UserError, match=r"--concepts adda is neither .* nor a shipped list of concepts \(pocket_seven\)$"
    ):
        find_config(Path("adda"), "--concepts")


def test_a_list_of_concepts_is_no_configuration(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("ada: {class_noun: woman}\nrex: {class_noun: dog, images: pics}")
    for given in ("pocket_seven", str(mine)):
        with pytest.raises(UserError) as told:
            parse_args(["--config", given, "--out", "run"])
        assert str(told.value) == (
            f"--config {given} lists concepts, and holds no settings: train them with `python -m train.concepts "
            f"--concepts {given} --out DIR`"
        )
    # A single setting may be a mapping too.
    mine.write_text("random_shares: {negative: 0.5}")
    assert read_flags(["--config", str(mine)]) == ["--random-shares.negative", "0.5"]


def test_a_configuration_is_no_list_of_concepts(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("strangers: [runs]\nrank: 4")
    for given in ("ada", str(mine)):
        with pytest.raises(UserError, match=f"--concepts {given} holds settings .* give it with --config, and to"):
            read_concepts(ConceptsOptions(concepts=Path(given), out=tmp_path / "run"), [])
