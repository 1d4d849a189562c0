"""Names that become file names, and names that are printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora_jax.checks.names import plain_name, same_name
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable


@pytest.mark.parametrize(
    "name", ["ada", "my-dog 2", "Ödön", "猫", "a.b", "con1", "console", "x" * 100, "com", "-a", "~"]
)
def test_ordinary_names_are_accepted(name):
    assert plain_name(name, "the name") == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("..", "begins with a dot"),
        (".", "begins with a dot"),
        (".git", "begins with a dot"),
        ("../../escaped", "has '/' in it"),
        ("/etc/passwd", "has '/' in it"),
        ("a\\b", r"has '\\' in it"),
        ("c:x", "has ':' in it"),
        ('a"', "has '\"' in it"),
        ("a?", "has '?' in it"),
        ("a*", "has '*' in it"),
        ("a|b", "has '|' in it"),
        ("<a>", "has '<' in it"),
        ("a\nb", "control characters"),
        ("a\0", "control characters"),
        ("a\x1b[2J", "control characters"),
        ("a\u202ebc", "invisible"),
        ("a\u200b", "invisible"),
        ("a\u2028b", "invisible"),
        ("a\udcff", "invisible"),
        ("a.", "ends with a dot"),
        ("a ", "ends with a dot or a space"),
        ("CON", "device"),
        ("nul.txt", "device"),
        ("aux .b", "device"),
        ("Com1", "device"),
        ("lpt²", "device"),
        ("x" * 101, "101 characters"),
        ("𝔞" * 60, "240 bytes"),
    ],
)
def test_names_that_some_operating_system_forbids_are_refused(name, fault):
    with pytest.raises(UserError) as error:
        plain_name(name, "the concept's name")
    assert str(error.value).startswith("the concept's name ")
    assert fault in str(error.value)
    assert printable(str(error.value)) == str(error.value)
    assert len(str(error.value)) < 300


@given(st.text(max_size=120))
def test_an_accepted_name_is_one_file_in_its_folder(tmp_path_factory, name):
    try:
        plain_name(name, "the name")
    except UserError:
        return
    folder = tmp_path_factory.getbasetemp() / "plain"
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    assert (folder / name).resolve().parent == folder.resolve()
    (folder / name).unlink()


def test_names_that_mean_one_file_on_some_system_are_the_same():
    assert same_name("Ada") == same_name("ADA") == same_name("ada")
    assert same_name("e\u0301") == same_name("\u00c9")
    assert same_name("ada") != same_name("adä")


def test_printable_text_has_no_control_characters():
    assert printable("\x1b[31mred\nnext\u202e") == r"\x1b[31mred\nnext\u202e"
    assert printable("mån <ada> 猫 'it'") == "mån <ada> 猫 'it'"
