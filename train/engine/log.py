"""The metrics of a run: a JSON object per line in `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from train.engine.platform import is_first_host


class MetricsLog:
    """Appends metrics to `<folder>/metrics.jsonl`. On a pod only the first host writes.

    `first_step` drops the lines that a resumed run will write again.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._path = folder / "metrics.jsonl"
        self._writes = is_first_host()
        if not self._writes:
            return
        lines = _good_lines(self._path) if first_step else []
        kept = b"".join(line + b"\n" for line, values in lines if values["step"] <= first_step)
        write_atomic(self._path, kept)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line; `step` is the number of finished steps."""
        if not self._writes:
            return
        line = json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in metrics.items()}})
        try:
            with open(self._path, "a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}; continue with --resume") from error


def all_metrics(path: Path) -> list[dict[str, Any]]:
    """The valid lines of a `metrics.jsonl`; [] if there is no such file."""
    return [values for _, values in _good_lines(path)]


def last_metrics(folder: Path) -> dict[str, Any]:
    """The last valid line of `<folder>/metrics.jsonl`; {} if there is none."""
    lines = _good_lines(folder / "metrics.jsonl")
    return lines[-1][1] if lines else {}


def _good_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The valid lines of a metrics file, and their values. A crash may leave other lines."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return [(line, values) for line in lines if (values := _metrics_of(line))]


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None
