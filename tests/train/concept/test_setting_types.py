"""Wrong values in a YAML file: one line with the file, the key and what is expected."""

from __future__ import annotations

import pytest

from blocklora_jax.errors import UserError
from train.concept.config import parse_args
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions

FLAGS = ["--images", "pics", "--token", "<ada>", "--class-noun", "woman", "--out", "runs/ada"]


def read(folder, text: str):
    (folder / "c.yaml").write_text(text)
    return parse_args([*FLAGS, "--config", str(folder / "c.yaml")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank: null", "rank must be a whole number, not null"),
        ("rank: [1, 2]", "rank must be a whole number, not [1, 2]"),
        ("rank: {a: 1}", "rank must be a whole number, not a mapping"),
        ("rank: sixteen", "rank must be a whole number, not 'sixteen'"),
        ("rank: 16.5", "rank must be a whole number, not 16.5"),
        ("rank: true", "rank must be a whole number, not true"),
        ("rank: 2024-01-01", "rank must be a whole number"),
        ("rank: 0", "rank must be at least 1, not 0"),
        (f"seed: {2**70}", "seed must be at most 4294967295"),
        ("learning_rate: .nan", "learning_rate must be at least 0, not nan"),
        ("learning-rate: [1]", "learning-rate must be a number, not [1]"),
        ("lambda: much", "lambda must be a number, not 'much'"),
        ("alpha: big", "alpha must be a number or null, not 'big'"),
        ("class_noun: no", "class_noun must be a text, not false: put it in quotes"),
        ("class_noun: [a, b]", "class_noun must be a text, not ['a', 'b']"),
        ("class_noun: --steps", "class_noun must not begin with '-': '--steps'"),
        ("class_noun: a\nclass-noun: b", "class_noun is given twice"),
        ("images: [a, b]", "images must be a path, not ['a', 'b']"),
        ("out: 5", "out must be a path, not 5: put it in quotes"),
        ("slot: [1, x]", "slot must be a list of whole numbers or null, not [1, 'x']"),
        ("slot: [-1]", "slot must be at least 0, not -1"),
        ("flip: 1", "flip must be true or false, not 1"),
        ("down: sideways", "down must be one of trained, orthogonal, not 'sideways'"),
        ("random_shares: 5", "random_shares must be a mapping of settings, not 5"),
        ("random_shares: {bogus: 1}", "random_shares has no 'bogus'; it takes own_class, negative"),
        ("random_shares: {negative: null}", "random_shares: negative must be a number, not null"),
        ("random_shares: {negative: 2}", "random_shares: negative must lie in 0..1, not 2"),
        ("preview_prompts: ['--x', '-5']", "preview_prompts must not begin with '-': '--x'"),
        ("negative_tokens: [1]", "negative_tokens must be a list of texts or null, not [1]"),
        ("rank: " + "9" * 5000, "is not valid YAML"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_file_and_key(tmp_path, text, message):
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path / "c.yaml"))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # YAML reads a text.
        ("alpha: null", "alpha", None),
        ("alpha: 3", "alpha", 3.0),
        ("slot: 3", "slot", (3,)),
        ("negative_tokens: []", "negative_tokens", ()),
        ("random_styles: a photo of", "random_styles", ("a photo of",)),
        ("preview_prompts: ['{x} {', '']", "preview_prompts", ("{x} {", "")),
    ],
)
def test_other_yaml_forms_of_a_value_are_accepted(tmp_path, text, name, value):
    assert read(tmp_path, text).settings()[name] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ada: {class_noun: dog, 5: 6}", "ada sets '5', which is the same for all"),
        ("ada: {class_noun: null}", "ada: class_noun must be a text, not null"),
        ("ada: {class_noun: dog, slot: x}", "ada: slot must be a list of whole numbers or null, not 'x'"),
        ("ada: {class_noun: dog, images: [5]}", "ada: images must be a path, not [5]"),
        ("ada: {class_noun: dog, seed: -1}", "ada: seed must be at least 0, not -1"),
        ("ada: null", "ada must be a mapping of settings"),
    ],
)
def test_a_faulty_concept_in_a_list_is_named(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        read_concepts(ConceptsOptions(concepts=tmp_path / "c.yaml", out=tmp_path / "out"), [])
    assert f"{tmp_path / 'c.yaml'}: {message}" in str(raised.value)
