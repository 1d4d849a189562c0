"""Weights of words: what brackets mean, and when they are ordinary characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora_jax.errors import UserError
from blocklora_jax.prompts.weights import weighted_spans


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("", [("", 1.0)]),
        ("a dog", [("a dog", 1.0)]),
        ("a (red) car", [("a ", 1.0), ("red", 1.1), (" car", 1.0)]),
        ("a [red] car", [("a ", 1.0), ("red", 1 / 1.1), (" car", 1.0)]),
        ("a (red:1.5) car", [("a ", 1.0), ("red", 1.5), (" car", 1.0)]),
        ("(red: 0.5 )", [("red", 0.5)]),
        ("(red:-1)", [("red", -1.0)]),
        ("(red:.5)(blue:2.)", [("red", 0.5), ("blue", 2.0)]),
        ("((red) car:2)", [("red", 2.2), (" car", 2.0)]),
        ("([red] car)", [("red", 1.0), (" car", 1.1)]),
        ("a (<ada>:1.3)'s dog", [("a ", 1.0), ("<ada>", 1.3), ("'s dog", 1.0)]),
        # Ordinary characters.
        (r"a car \(old\)", [("a car (old)", 1.0)]),
        (r"a \[b\] \\ \c", [("a [b] \\ \\c", 1.0)]),
        ("happy :) and sad :(", [("happy :) and sad :(", 1.0)]),
        ("at 1:2) or (3", [("at 1:2) or (3", 1.0)]),
        ("(a] [b)", [("(a] [b)", 1.0)]),
        ("(red: big)", [("red: big", 1.1)]),
        ("[red:0.5]", [("red:0.5", 1 / 1.1)]),
    ],
)
def test_brackets_are_read_as_in_a1111(prompt, spans):
    got = weighted_spans(prompt)
    assert [span.text for span in got] == [text for text, _ in spans]
    assert [span.weight for span in got] == pytest.approx([weight for _, weight in spans], rel=1e-12)


def test_a_weight_beyond_the_bounds_is_an_error_that_names_the_words():
    for prompt in ("a (red car:99)", "(" * 30 + "red car" + ")" * 30):
        with pytest.raises(UserError, match="the weight of 'red car' must be at most 10"):
            weighted_spans(prompt)


@given(st.text(alphabet="ab ():[]\\", max_size=20))
def test_every_text_is_read_and_escaped_text_stays_itself(text):
    weighted_spans(text)
    escaped = "".join(f"\\{c}" if c in "()[]\\" else c for c in text)
    assert weighted_spans(escaped) == [(text, 1.0)]
