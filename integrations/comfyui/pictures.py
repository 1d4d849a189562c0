"""Pictures as ComfyUI passes them: PyTorch tensors [1, h, w, 3] from 0 to 1."""

from __future__ import annotations

import numpy as np
from PIL import Image


def read_picture(path: str):
    """The picture in a file."""
    with Image.open(path) as picture:
        return _tensor(np.asarray(picture.convert("RGB"), np.float32) / 255)


def empty_picture():
    """A black picture, where there is none."""
    return _tensor(np.zeros((64, 64, 3), np.float32))


def _tensor(array: np.ndarray):
    import torch

    return torch.from_numpy(array.copy())[None]
