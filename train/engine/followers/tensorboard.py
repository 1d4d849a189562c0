"""TensorBoard files of a run (extra `tensorboard`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from blocklora_jax.errors import UserError

FOLDER = "tensorboard"


class TensorBoard:
    """Writes curves and previews to `<folder>/tensorboard`.

    Raises: UserError without tensorboardX.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard needs tensorboardX: pip install 'blocklora_jax[tensorboard]'") from error
        self._writer = SummaryWriter(str(folder / FOLDER))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def preview(self, step: int, name: str, picture: Image.Image) -> None:
        """Add a picture."""
        self._writer.add_image(f"preview/{name}", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        self._writer.close()
