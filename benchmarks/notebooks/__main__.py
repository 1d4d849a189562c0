"""Run the notebooks in `examples/` from top to bottom: `python -m benchmarks.notebooks [NAME …] [--quick] [--write]`.

--quick takes a few steps of everything, and the notebook for Stable Diffusion 1.5 runs on a tiny random model. --write
runs them as users do, which takes about an hour on two cores, and puts the outputs into the notebooks' files; Stable
Diffusion 1.5 is replaced by the pocket model then.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nbformat
import tyro

from benchmarks.notebooks.execute import run_notebook
from benchmarks.notebooks.outputs import tidy
from benchmarks.notebooks.settings import NOTEBOOKS, Notebook
from blocklora_jax.command_line.compilation_cache import SETTING
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run the notebooks in examples/ from top to bottom."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of notebooks, such as quickstart; all if not given."""
    quick: bool = False
    """A few steps of everything, to see that all cells run."""
    write: bool = False
    """Put the outputs into the files of examples/."""
    folder: Path | None = None
    """The folder that they run in and write to. It is kept, and a second run goes on from what is there. If not given:
    a temporary folder."""
    timeout: int = 7200
    """Seconds that a cell may take."""

    def __post_init__(self) -> None:
        if self.quick and self.write:
            raise UserError("--write keeps the outputs of a whole run: leave out --quick")

    @property
    def chosen(self) -> list[Notebook]:
        """The notebooks to run, in an order in which the second may use what the first has made."""
        known = {notebook.name: notebook for notebook in NOTEBOOKS}
        if unknown := [name for name in self.names if name not in known]:
            raise UserError(f"there is no notebook {unknown[0]!r}: choose {', '.join(known)}")
        return [notebook for name, notebook in known.items() if not self.names or name in self.names]


def main() -> None:
    """The command line."""
    options = read_options(Options, prog="python -m benchmarks.notebooks")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        # All notebooks share their compiled programs, also on a machine where none are kept.
        os.environ.setdefault(SETTING, str(Path(temporary) / "compiled"))
        for notebook in options.chosen:
            began = time.perf_counter()
            notebook.prepare(folder, options.quick)
            values = notebook.quick if options.quick else notebook.written if options.write else {}
            book = run_notebook(notebook.file, folder, values, options.timeout)
            print(f"{notebook.name}: {time.perf_counter() - began:.0f} s", flush=True)
            if options.write:
                text = nbformat.writes(tidy(book, folder.resolve())) + "\n"
                write_atomic(notebook.file, text.encode())
                print(f"wrote {notebook.file.name}, {len(text) / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    run(main)
