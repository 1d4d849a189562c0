"""Runs a notebook from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from benchmarks.notebooks.settings import Parameters
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import one_line

ROOT = Path(__file__).parents[2]
# The cell behind the one tagged "parameters" that gives them other values. It is not kept.
PARAMETERS, INJECTED = "parameters", "injected-parameters"


def run_notebook(file: Path, folder: Path, values: Parameters, timeout: int) -> NotebookNode:
    """The notebook with the outputs of a run in `folder`.

    values: of parameters, in place of its own. timeout: seconds for a cell.

    Raises: UserError naming the cell that failed, or that took too long.
    """
    book = with_values(nbformat.read(file, as_version=4), values)
    client = NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env=_environment())
    except (CellExecutionError, CellTimeoutError) as error:
        raise UserError(f"{file.name}: {one_line(error, 2000)}") from error
    book.cells = [cell for cell in book.cells if INJECTED not in cell.metadata.get("tags", [])]
    return book


def with_values(book: NotebookNode, values: Parameters) -> NotebookNode:
    """`book` with a cell behind its parameters that sets `values`.

    Raises: UserError for a notebook without a cell of parameters, or a value that this cell does not set.
    """
    if not values:
        return book
    places = [i for i, cell in enumerate(book.cells) if PARAMETERS in cell.metadata.get("tags", [])]
    if len(places) != 1:
        raise UserError(f'{len(places)} cells have the tag "{PARAMETERS}": give it to one')
    lines = book.cells[places[0]].source.splitlines()
    if unknown := [name for name in values if not any(line.startswith(f"{name} = ") for line in lines)]:
        raise UserError(f"the cell of parameters does not set {unknown[0]}")
    cell = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items()))
    cell.metadata["tags"] = [INJECTED]
    book.cells.insert(places[0] + 1, cell)
    return book


def _environment() -> dict[str, str]:
    """The kernel imports this tree, whatever is installed, and the hub is not asked."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
