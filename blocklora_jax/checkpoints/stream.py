"""Writing safetensors one tensor at a time, so that a model is never in memory twice."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from blocklora_jax.checkpoints.weights import DTYPES, cast_tensors
from blocklora_jax.files import open_atomic

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_tensors(
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[str], np.ndarray],
    dtype: str,
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file of tensors that `make(key)` gives when their turn comes.

    Args:
        path: where; written beside and moved into place.
        shapes: of every tensor, by key.
        make: the tensor of a key, of any float type and memory order.
        dtype: "float32", "float16" or "bfloat16", of all.
        metadata: texts for the header.

    Raises:
        UserError: a value is beyond float16; the disk will not take the file.

    Source: the safetensors format: 8 bytes length, a header in JSON padded with spaces, the tensors in C order.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for key, shape in shapes.items():
        end = start + prod(shape) * DTYPES[dtype].itemsize
        header[key] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open_atomic(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in shapes.items():
            tensor = cast_tensors({key: make(key)}, dtype)[key]
            if tensor.shape != shape:
                raise ValueError(f"{key} is {tensor.shape}, not {shape} as announced")
            # As bytes: bfloat16 has no buffer of its own.
            file.write(tensor.view(np.uint8).data if tensor.ndim else tensor.tobytes())
