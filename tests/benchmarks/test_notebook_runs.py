"""`python -m benchmarks.notebooks`: values in place of a notebook's own, errors, and outputs fit to be committed."""

from __future__ import annotations

import base64
import io
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

from benchmarks.notebooks import __main__ as command
from benchmarks.notebooks import settings
from benchmarks.notebooks.__main__ import Options
from benchmarks.notebooks.execute import run_notebook, with_values
from benchmarks.notebooks.outputs import smaller_picture, tidy
from benchmarks.notebooks.settings import NOTEBOOKS, Notebook
from blocklora_jax.errors import UserError

SOURCE = """
import os, sys
from PIL import Image
print(os.getcwd(), STEPS)
print("noise", file=sys.stderr)
display(Image.effect_noise((1400, 20), 50))
"""


def book_of(*sources: str):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    return nbformat.v4.new_notebook(cells=cells)


def write(path, book):
    path.write_text(nbformat.writes(book))
    return path


def test_a_run_takes_other_values_and_leaves_nothing_of_the_machine(tmp_path):
    file = write(tmp_path / "a.ipynb", book_of("STEPS = 500  # many", SOURCE))
    book = tidy(run_notebook(file, tmp_path, {"STEPS": 2}, 60), tmp_path)
    assert [cell.execution_count for cell in book.cells] == [1, 2]
    assert book.cells[0].source == "STEPS = 500  # many"
    printed, picture = book.cells[1].outputs
    assert printed.text == ". 2\n"
    [kind] = [kind for kind in picture.data if kind.startswith("image/")]
    with Image.open(io.BytesIO(base64.b64decode(picture.data[kind]))) as shown:
        assert shown.width == 1000
    nbformat.validate(book)
    assert str(tmp_path) not in nbformat.writes(book)


def test_a_cell_that_fails_is_named(tmp_path):
    file = write(tmp_path / "a.ipynb", book_of("STEPS = 1", "raise ValueError('broken')"))
    with pytest.raises(UserError, match=r"a\.ipynb: .*broken"):
        run_notebook(file, tmp_path, {}, 60)


def test_a_notebook_shows_our_errors_in_one_line(tmp_path):
    source = "from blocklora_jax import UserError\nraise UserError('there is no folder')"
    file = write(tmp_path / "a.ipynb", book_of("STEPS = 1", source))
    with pytest.raises(UserError) as error:
        run_notebook(file, tmp_path, {}, 60)
    assert "UserError: there is no folder" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_values_must_be_those_of_parameters():
    with pytest.raises(UserError, match="the cell of parameters does not set STOPS"):
        with_values(book_of("STEPS = 1"), {"STOPS": 1})
    with pytest.raises(UserError, match="0 cells have the tag"):
        with_values(nbformat.v4.new_notebook(), {"STEPS": 1})


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_every_value_is_a_parameter_of_its_notebook(notebook):
    for values in (notebook.quick, notebook.written):
        with_values(nbformat.read(notebook.file, as_version=4), values)


def test_photos_become_jpegs_and_drawings_stay_pngs():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 60, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    plain = np.zeros((240, 240, 3), np.uint8)
    for pixels, kind in ((noise, "image/jpeg"), (plain, "image/png")):
        buffer = io.BytesIO()
        Image.fromarray(
            np.clip(pixels + rng.normal(0, 9, pixels.shape) * (kind == "image/jpeg"), 0, 255).astype(np.uint8)
        ).save(buffer, "PNG")
        assert smaller_picture(buffer.getvalue())[0] == kind


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two notebooks instead of ours; gives their folder, and a folder to run in."""
    examples = tmp_path / "examples"
    examples.mkdir()
    for name in ("one", "other"):
        write(examples / f"{name}.ipynb", book_of("STEPS = 500", "print(STEPS)"))
    monkeypatch.setattr(settings, "EXAMPLES", examples)
    monkeypatch.setattr(command, "NOTEBOOKS", tuple(Notebook(name, {"STEPS": 2}) for name in ("one", "other")))
    return examples, tmp_path / "here"


def outputs(file) -> list[str]:
    return [output.text for cell in nbformat.read(file, as_version=4).cells for output in cell.outputs]


def test_a_quick_run_changes_no_file_and_a_whole_run_writes_outputs(two, monkeypatch, capsys):
    examples, folder = two
    before = {path.name: path.read_bytes() for path in examples.iterdir()}
    monkeypatch.setattr(sys, "argv", ["notebooks", "--quick", "--folder", str(folder)])
    command.main()
    assert {path.name: path.read_bytes() for path in examples.iterdir()} == before
    monkeypatch.setattr(sys, "argv", ["notebooks", "one", "--write", "--folder", str(folder)])
    command.main()
    assert outputs(examples / "one.ipynb") == ["500\n"]
    assert outputs(examples / "other.ipynb") == []
    lines = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(lines[:2]) == ["one", "other"] and lines[2:] == ["one", "wrote one.ipynb, 0.00 MB"]


def test_wrong_options_are_one_line():
    assert [notebook.name for notebook in Options(names=("fifteen",)).chosen] == ["fifteen"]
    with pytest.raises(UserError, match="there is no notebook 'nine': choose quickstart"):
        _ = Options(names=("nine",)).chosen
    with pytest.raises(UserError, match="leave out --quick"):
        Options(quick=True, write=True)
