"""Reads and writes safetensors files without checks, so that wrong ones can be made too."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

_NUMPY = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "C64": np.complex64,
}  # fmt: skip
# 8-bit floats, which only LoRAs of other programs may have; and types that no adapter has.
FLOAT8_DTYPES = ("F8_E4M3", "F8_E5M2")
WRONG_DTYPES = ("I64", "I32", "I16", "I8", "U8", "BOOL", "C64")


@dataclass
class Tensor:
    """One tensor of a file. shape may be anything, and data need not fit it."""

    name: str
    dtype: str
    shape: list[Any]
    data: bytes

    @property
    def array(self) -> np.ndarray:
        """The numbers of the tensor."""
        return np.frombuffer(self.data, _NUMPY[self.dtype]).reshape(self.shape)

    def cast(self, dtype: str) -> Tensor:
        """The same tensor in another type, rounded."""
        wide = self.array.astype(np.float32)
        return Tensor(self.name, dtype, list(self.shape), wide.astype(_NUMPY[dtype]).tobytes())

    def filled(self, value: float, index: int | None = None) -> Tensor:
        """The same tensor with `value` at `index`, or everywhere."""
        array = self.array.copy().reshape(-1)
        array[slice(None) if index is None else index % max(array.size, 1)] = value
        return Tensor(self.name, self.dtype, list(self.shape), array.tobytes())


@dataclass
class RawFile:
    """A file as a list of tensors, in the order of their data, and the texts of its header."""

    tensors: list[Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: bytes) -> RawFile:
        """Read the bytes of an undamaged file."""
        header, body = json.loads(data[8 : 8 + header_size(data)]), data[8 + header_size(data) :]
        metadata = header.pop("__metadata__", {})
        items = sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0]))
        tensors = [Tensor(n, v["dtype"], v["shape"], body[slice(*v["data_offsets"])]) for n, v in items]
        return cls(tensors, metadata)

    @classmethod
    def make(cls, arrays: dict[str, np.ndarray], metadata: dict[str, Any] | None = None) -> RawFile:
        """A file of arrays in fp64, fp32, fp16, bf16 or int64."""
        names = {np.dtype(kind): name for name, kind in _NUMPY.items()}
        tensors = [
            Tensor(k, names[a.dtype], list(a.shape), np.ascontiguousarray(a).tobytes()) for k, a in arrays.items()
        ]
        return cls(tensors, dict(metadata or {}))

    def replaced(self, index: int, change: Callable[[Tensor], Tensor]) -> RawFile:
        """The file with the tensor at `index` changed."""
        return RawFile([change(t) if i == index else t for i, t in enumerate(self.tensors)], dict(self.metadata))

    def header(self) -> dict[str, Any]:
        """The header, with consecutive offsets."""
        entries, start = {}, 0
        for tensor in self.tensors:
            end = start + len(tensor.data)
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
            start = end
        return ({"__metadata__": self.metadata} if self.metadata else {}) | entries

    def pack(self, header: str | bytes | None = None) -> bytes:
        """The bytes of the file. header: another text for its header."""
        text = json.dumps(self.header()) if header is None else header
        data = text.encode() if isinstance(text, str) else text
        data += b" " * (-len(data) % 8)
        return struct.pack("<Q", len(data)) + data + b"".join(tensor.data for tensor in self.tensors)


def header_size(data: bytes) -> int:
    """The size of the header, which the first 8 bytes state."""
    return struct.unpack("<Q", data[:8])[0]
