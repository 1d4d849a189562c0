"""Writes `report.html` into the folder of a run."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.outputs import SOFTWARE
from train.concept.report.page import make_page
from train.concept.report.run_facts import read_run

REPORT = "report.html"
_OURS = f'<meta name="generator" content="{SOFTWARE}">'.encode()


def write_report(folder: str | Path, metrics: str | Path | None = None) -> Path:
    """Write `report.html`, one file that needs no server, for a finished or interrupted run. Gives its path.

    folder: of the run. metrics: the folder of its metrics.jsonl, see `run_facts.read_run`.

    Raises: UserError if there is no run, or a report.html that this program did not write.
    """
    folder = Path(folder)
    run, path = read_run(folder, None if metrics is None else Path(metrics)), folder / REPORT
    if path.exists() and _OURS not in _start_of(path):
        raise UserError(f"{path} was not written by this program: move it away")
    write_atomic(path, make_page(run).encode())
    return path


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
