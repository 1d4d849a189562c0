"""Run the notebooks in `examples/` from top to bottom: `python -m benchmarks.notebooks [NAME …] [--quick] [--write]`.

--quick takes a few steps of everything, and the notebook for Stable Diffusion 1.5 runs on a tiny random model. --write
runs them as users do, which takes about an hour on two cores, and puts the outputs into the notebooks' files; Stable
Diffusion 1.5 is replaced by the pocket model then.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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

_QUICK_COMPILING = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


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
        if options.quick:
            # As in the tests: what is compiled runs only once or twice.
            os.environ.setdefault("XLA_FLAGS", _QUICK_COMPILING)
        chosen = options.chosen
        # Compiling, which a quick run does most of the time, uses one core.
        rows = [row for row in (chosen[::2], chosen[1::2]) if row] if options.quick else [chosen]
        with ThreadPoolExecutor(len(rows)) as pool:
            for done in [pool.submit(_run_all, row, folder, options) for row in rows]:
                done.result()


def _run_all(notebooks: Sequence[Notebook], folder: Path, options: Options) -> None:
    """Run `notebooks` one after the other, and write their files if the options say so."""
    for notebook in notebooks:
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
