"""The results: a JSON object a line, on disk as soon as it is measured."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class Lines:
    """Writes each result to the standard output and to a file, and flushes both. `rows` holds them all.

    A file that cannot be written to is told on the standard error, and nothing else is lost.
    """

    def __init__(self, path: Path | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path, self._began = path, time.monotonic()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def write(self, row: dict[str, Any]) -> None:
        """Add one result. It gets `at`: the seconds since the start."""
        row = {**row, "at": round(time.monotonic() - self._began, 1)}
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        if self._path:
            try:
                with open(self._path, "a") as file:
                    file.write(line + "\n")
            except OSError as error:
                print(f"cannot write {self._path}: {error.strerror or error}", file=sys.stderr, flush=True)
