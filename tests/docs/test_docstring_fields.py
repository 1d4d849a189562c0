"""The site shows the arguments of functions as a list."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PATH = Path(__file__).parents[2] / "docs" / "_extensions" / "docstring_fields.py"
spec = spec_from_file_location("docstring_fields", PATH)
docstring_fields = module_from_spec(spec)
spec.loader.exec_module(docstring_fields)


def test_lines_on_arguments_become_fields_with_their_whole_text():
    lines = ["One line.", "", "height, width: in pixels,", "and even.", "Raises: UserError if so.", "", "More: text."]
    assert list(docstring_fields.with_fields(lines, ["height", "width"])) == [
        "One line.",
        "",
        "",
        ":param height: in pixels,",
        "    and even.",
        ":param width: in pixels,",
        "    and even.",
        ":raises UserError: if so.",
        "",
        "More: text.",
        "",
    ]


def test_bars_are_plain_signs_except_in_code():
    assert docstring_fields.without_bars("|x| and `|y|`") == r"\|x\| and `|y|`"
    assert docstring_fields.without_bars(">>> a | b") == ">>> a | b"
