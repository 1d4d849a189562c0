"""JSON and YAML from files that cannot be trusted."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json, parse_yaml, read_json, read_yaml_mapping, repeated
from blocklora_jax.io.yaml_edit import compose_yaml


def test_well_formed_files_are_read():
    assert parse_json('{"a": [1, 2.5, null, true, "ü"]}', "x") == {"a": [1, 2.5, None, True, "ü"]}
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "x") == {"a": 1}
    assert parse_json('{"a": -Infinity}', "x", infinity=True) == {"a": -math.inf}
    assert parse_yaml(b"a: [1, 2]\nb: {c: d}\n", "x") == {"a": [1, 2], "b": {"c": "d"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 70 + "]" * 70, "nested deeper than 64"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"b": {"a": 1, "a": 1}}', "'a' occurs twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "too large"),
        ('"\\ud800"', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ("9" * 5000, "x: "),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_malformed_json_is_one_error_that_names_the_source(text, words):
    with pytest.raises(UserError, match=f"cannot read x: .*{words}" if words != "x: " else words):
        parse_json(text, "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"a: &a [1,1]\nb: &b [*a,*a]\n" * 9, "aliases"),
        (b"a: 1\na: 2\n", "'a' occurs twice"),
        (b"[" * 5000, "nested too deeply|not valid YAML"),
        (b"a: " + b"[" * 80 + b"]" * 80, "nested deeper|too deeply"),
        (b"a: [1", "not valid YAML"),
        (b"\xff\xfea\x00", "not UTF-8"),
        (b"? [a, b]\n: 1\n", "not valid YAML"),
        (b"a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"a: 2001-99-99", "not valid YAML"),
    ],
)
def test_yaml_that_is_not_plain_is_one_error(text, words):
    with pytest.raises(UserError, match=words):
        parse_yaml(text, "x.yaml")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * (2 << 20))
    for read, path, words in (
        (read_json, tmp_path / "none.json", "cannot read .*No such file"),
        (read_json, tmp_path, "Is a directory"),
        (read_json, tmp_path / "nul\0.json", "cannot read|no file"),
        (read_yaml_mapping, tmp_path / "large.yaml", "larger than 1 MB"),
    ):
        with pytest.raises(UserError, match=words):
            read(path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        read_yaml_mapping(tmp_path / "list.yaml")


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([None, 0, 1, "a", "b", (1, 2)])))
def test_what_occurs_earlier_is_repeated(items):
    assert repeated(items) == [item for i, item in enumerate(items) if item in items[:i]]


class Word(str):
    """A text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Word.compared += 1
        return super().__eq__(other)


def test_not_every_pair_of_many_keys_is_compared():
    assert repeated([Word(i % 2999) for i in range(3000)]) == ["0"]
    assert Word.compared < 3000


def test_the_key_that_occurs_twice_among_many_is_named():
    keys = [*(f"k{i}" for i in range(2000)), "k1234"]
    with pytest.raises(UserError, match="the key 'k1234' occurs twice"):
        parse_json("{" + ", ".join(f'"{key}": 1' for key in keys) + "}", "x")
    text = "".join(f"{key}: 1\n" for key in keys)
    with pytest.raises(UserError, match="the key 'k1234' occurs twice"):
        parse_yaml(text.encode(), "x.yaml")
    with pytest.raises(UserError, match="a key occurs twice: 'k1234'"):
        compose_yaml(text, "x.yaml")
    with pytest.raises(UserError, match="unhashable"):
        parse_yaml(b"a: 1\n? [a, b]\n: 1\n? [a, b]\n: 2\n", "x.yaml")
