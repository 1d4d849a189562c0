"""The committed notebooks: their pictures are there, they are small, and they say nothing of a machine."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from benchmarks.notebooks.settings import EXAMPLES, NOTEBOOKS

FILES = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 1_000_000  # bytes


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request) -> Path:
    return request.param


@pytest.fixture
def book(file):
    return nbformat.read(file, as_version=4)


def pictures(cell) -> list[str]:
    outputs = cell.get("outputs", [])
    return [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]


def test_every_notebook_is_run_by_the_benchmark():
    assert {path.stem for path in FILES} == {notebook.name for notebook in NOTEBOOKS}


def test_it_is_valid_and_small(file, book):
    nbformat.validate(book)
    assert file.stat().st_size < LARGEST
    assert len({cell.id for cell in book.cells}) == len(book.cells)


def test_it_was_run_from_top_to_bottom(book):
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds


def test_github_shows_its_pictures(book):
    assert sum(len(pictures(cell)) for cell in book.cells) >= 2


def test_the_first_picture_of_quickstart_comes_in_five_cells():
    book = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert any(pictures(cell) for cell in book.cells[:5])


def test_it_says_nothing_of_the_machine(file, book):
    text = file.read_text(encoding="utf-8")
    # Pictures in base64 may hold anything.
    text = re.sub(r'"image/\w+": "[^"]*"', "", text)
    assert not re.findall(r"/(?:home|root|tmp|work|Users|content)/\S*", text)
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(set(cell.metadata) <= {"tags"} for cell in book.cells)


def test_its_links_lead_to_files(book):
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (EXAMPLES / target).exists(), target


def test_the_page_of_the_notebooks_names_all_of_them():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", page) if not target.startswith("http")]
    assert sorted(links) == [path.name for path in FILES]


def test_nothing_is_uploaded_or_downloaded_by_default():
    book = nbformat.read(EXAMPLES / "your_own_concept.ipynb", as_version=4)
    [parameters] = [cell.source for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    assert 'OTHER = ""' in parameters and 'PUSH_TO = ""' in parameters


def test_a_cell_that_trains_can_be_run_again(book):
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    calls = re.findall(r"train_concepts?\(.*", text)
    assert calls
    assert all('resume="auto"' in call for call in calls)
