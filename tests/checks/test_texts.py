"""Prompt templates: only the places that are meant to be filled are changed."""

from __future__ import annotations

import pytest

from blocklora_jax.checks.texts import fill, is_unicode


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("a photo of {}", "a photo of <ada> {} man"),
        ("a {0} {}", "a {0} <ada> {} man"),
        ("{x} {", "{x} {"),
        ("{} and {} }", "<ada> {} man and <ada> {} man }"),
        ("{!r} {:>9} {a.b} {{}}", "{!r} {:>9} {a.b} {<ada> {} man}"),
    ],
)
def test_only_empty_braces_are_filled(template, filled):
    assert fill(template, "<ada> {} man") == filled


def test_all_named_places_are_filled_in_one_pass():
    assert fill("{first} and {second} {}", first="a {second}", second="b") == "a {second} and b {}"


def test_text_with_half_a_character_is_not_unicode():
    assert is_unicode("ada \N{SNOWMAN} \0")
    assert not is_unicode("\udcff")
