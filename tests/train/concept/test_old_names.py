"""Settings that were renamed: old flags and YAML keys still work, and files keep their keys."""

from __future__ import annotations

import pytest
from concept_builders import as_flags, make_config, settings

from blocklora_jax.errors import UserError
from train.concept.config import parse_args
from train.concept.settings.old_names import OLD_NAMES, rename_flags, rename_settings


def test_old_flags_are_read_and_the_new_ones_named(tmp_path, capsys):
    flags = ["--strangers", "a", "b", "--foreign-spread=3", "--random_shares.foreign", "0.25"]
    config = parse_args([*as_flags(settings(out=tmp_path)), *flags])
    assert config.tokens.negative_tokens == ("a", "b")
    assert config.tokens.negative_spread == 3
    assert config.random_shares.negative == 0.25
    assert capsys.readouterr().err.splitlines() == [
        "--strangers is now called --negative-tokens",
        "--foreign-spread is now called --negative-spread",
        "--random_shares.foreign is now called --random-shares.negative",
    ]


def test_old_keys_of_a_file_are_read_and_the_new_ones_named(capsys):
    old = {"rank": 4, "foreign-spread": 3, "random-shares": {"foreign": 0.25, "own_class": 1}}
    new = {"rank": 4, "negative_spread": 3, "random-shares": {"negative": 0.25, "own_class": 1}}
    assert rename_settings("a.yaml", old) == new
    assert capsys.readouterr().err.splitlines() == [
        "a.yaml: foreign-spread is now called negative_spread",
        "a.yaml: random-shares: foreign is now called negative",
    ]
    assert rename_settings("a.yaml", new) == new
    assert capsys.readouterr().err == ""


def test_an_old_name_beside_its_new_one_is_refused():
    with pytest.raises(UserError, match="a.yaml: strangers is the old name of negative_tokens, which is given too"):
        rename_settings("a.yaml", {"negative-tokens": [], "strangers": []})


def test_values_that_look_like_old_names_are_not_changed():
    assert rename_flags(["strangers", "--images=strangers", "-strangers"]) == [
        "strangers", "--images=strangers", "-strangers",
    ]  # fmt: skip


def test_files_keep_the_old_keys_in_their_places(tmp_path):
    written = make_config(out=tmp_path, negative_tokens=("a",), negative_spread=3.0).to_json()
    assert not OLD_NAMES.keys() & set(make_config(out=tmp_path).settings())
    keys = list(written)
    at = keys.index("token_spread")
    assert keys[at : at + 4] == ["token_spread", "foreign_spread", "strangers", "erase"]
    assert (written["foreign_spread"], written["strangers"]) == (3.0, ("a",))
    assert list(written["random_shares"]) == ["own_class", "foreign", "second", "scene", "empty"]
