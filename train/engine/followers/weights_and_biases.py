"""Weights & Biases (extra `wandb`). Offline it needs no account."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic

Mode = Literal["off", "online", "offline"]
FOLDER = "wandb"
# A resumed run goes on under its number, which this file in the folder keeps.
_NUMBER = "blocklora_run_id"
# The axis of all curves. A resumed run repeats a few steps, which wandb's own step counter would refuse.
_STEP = "training_step"


class WeightsAndBiases:
    """Logs curves and previews to Weights & Biases. Files are in `<folder>/wandb`.

    The project is WANDB_PROJECT, or "blocklora".

    Args:
        folder: of the run.
        mode: "offline" writes files only, which `wandb sync` uploads later. "online": as wandb itself is set up.
        name: of the run.
        settings: JSON values that describe the run.

    Raises: UserError without the package, or if wandb refuses to begin, as without an account.
    """

    def __init__(self, folder: Path, mode: Mode, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"--wandb {mode} needs wandb: pip install 'blocklora_jax[wandb]'") from error
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "blocklora"), name=name, dir=folder, id=_run_id(folder),
                config=dict(settings), mode="offline" if mode == "offline" else None,
                resume="allow" if mode == "online" else None,
                # What is printed stays in the terminal: wandb would wrap the progress bar.
                settings=wandb.Settings(console="off"),
            )  # fmt: skip
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases did not begin ({error}): log in with `wandb login`, or give --wandb offline, which"
                " needs no account; add --resume"
            ) from error
        self._run.define_metric("*", step_metric=_STEP)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log({**values, _STEP: step})

    def preview(self, step: int, name: str, picture: Image.Image) -> None:
        """Add a picture."""
        self._run.log({f"preview/{name}": self._wandb.Image(picture), _STEP: step})

    def close(self) -> None:
        """Write everything; online, wait for the upload."""
        self._run.finish()


def _run_id(folder: Path) -> str:
    """The number of the run in `folder`: that of the interrupted run, or a new one."""
    file = folder / FOLDER / _NUMBER
    if file.is_file() and (number := file.read_text(encoding="utf-8", errors="replace").strip()).isalnum():
        return number
    number = secrets.token_hex(4)
    write_atomic(file, number.encode())
    return number
