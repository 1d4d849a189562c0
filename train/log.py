"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and TensorBoard where tensorboardX is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic
from train.platform import is_first_host


class MetricsLog:
    """Appends metrics to `<folder>/metrics.jsonl`; on a pod only the first host does.

    `first_step` drops the lines that a resumed run will write again.
    """

    def __init__(self, folder: Path, first_step: int, tensorboard: bool = False) -> None:
        self._path = folder / "metrics.jsonl"
        self._board = None
        self._writes = is_first_host()
        if not self._writes:
            return
        kept = []
        if first_step and self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= first_step]
        write_atomic(self._path, "".join(f"{line}\n" for line in kept).encode())
        self._board = _summary_writer(folder) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line; `step` is the number of finished steps."""
        if not self._writes:
            return
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in metrics.items()}}) + "\n")
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is left."""
        if self._board:
            self._board.close()


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # A line cut short by a crash is written again.


def _summary_writer(folder: Path):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboardX: pip install 'blocklora_jax[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))
