"""Reads and writes safetensors. Only this module opens them, knows their types, and verifies their digest."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes  # gives NumPy bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import open_atomic
from blocklora_jax.io.tensor_digest import DIGEST_KEY, TensorDigest

# The types in which files can be written.
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_KINDS = {stored: np.dtype(np.float64) if name == "float64" else DTYPES[name] for name, stored in _NAMES.items()}
_FLOATS = frozenset(_NAMES.values())
# Read only where the caller asks for them. safetensors does not give them to NumPy.
_FLOAT8 = {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2)}
_INTEGERS = frozenset(("I64", "I32", "I16", "U8", "I8", "BOOL"))
_MOST_AXES = 16
# Characters of a tensor's name; the longest of any program that we know have less than 200.
_LONGEST_NAME = 1000
_PLACEHOLDER = "0" * 64
# ValueError is raised for dimensions that NumPy cannot have.
_UNREADABLE = (SafetensorError, OSError, TypeError, ValueError, MemoryError)

# The beginnings of files that are not safetensors, and what the message says about them.
_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a PyTorch file or another zip archive, which may run code: only safetensors are read"),
    (b"\x80", "a Python pickle, which can run code: only safetensors are read"),
    (b"<!DOCTYPE", "a web page: the download did not reach the file (is a login needed?)"),
    (b"<!doctype", "a web page: the download did not reach the file (is a login needed?)"),
    (b"<html", "a web page: the download did not reach the file (is a login needed?)"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`, or download the file itself"),
    (b"GGUF", "a GGUF file: only safetensors are read"),
    (b"{", "a JSON text: only safetensors are read"),
)


class TensorFile:
    """An open safetensors file; see `open_tensors`."""

    def __init__(self, path: Path, file: Any, verify: bool) -> None:
        self.path, self._file, self._verify = path, file, verify
        self.metadata: dict[str, str] = dict(file.metadata() or {})
        self.keys: list[str] = list(file.keys())
        self._mapped: _MappedFile | None = None

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header. Raises UserError for more axes than any weight has."""
        shape = tuple(self._file.get_slice(key).get_shape())
        if len(shape) > _MOST_AXES:
            raise UserError(f"{self.path}: {key} has {len(shape)} axes, more than any weight has")
        return shape

    def dtype(self, key: str) -> str:
        """Type of a tensor under its name in safetensors: "F32"."""
        return self._file.get_slice(key).get_dtype()

    def read(self, key: str) -> np.ndarray:
        """One tensor, not verified. Raises UserError unless its type is a floating-point type of 16 bits or more."""
        self.require_floats([key])
        return self._get(key)

    def require_floats(self, keys: Collection[str], float8: bool = False) -> None:
        """Raise UserError naming the tensors that are not F64, F32, F16 or BF16, such as quantised ones.

        float8: F8_E4M3 and F8_E5M2 may be too.
        """
        wrong = [(key, self.dtype(key)) for key in keys]
        wrong = [f"{key} is {dtype}" for key, dtype in wrong if not (dtype in _FLOATS or float8 and dtype in _FLOAT8)]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(
                f"{self.path}: {', '.join(wrong[:3])}{more}; tensors must be {', '.join(sorted(_FLOATS))}:"
                " convert the file"
            )

    def tensors(
        self,
        wanted: Callable[[str], bool] = lambda key: True,
        whole: Callable[[str], bool] = lambda key: False,
        mapped: bool = False,
        float8: bool = False,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(key, tensor) for all `wanted` keys, one at a time. After the last one, the file's digest is verified.

        whole: whether a key's tensor may also hold integers. mapped: give read-only views of the file instead of
        copies. The caller must copy each before the file can change: a view of a file that is cut short ends the
        process. float8: whether 8-bit floats may be given too.
        Raises: UserError for other types, and, after the last tensor, if the file's digest does not match.
        """
        stated = self.metadata.get(DIGEST_KEY) if self._verify else None
        self.require_floats(
            [key for key in self.keys if wanted(key) and not (whole(key) and self.dtype(key) in _INTEGERS)], float8
        )
        digest = TensorDigest()
        for key in self.keys:
            if not wanted(key) and stated is None:
                continue
            tensor = self._view(key) if mapped else self._get(key)
            if stated is not None:
                digest.add(key, tensor)
            if wanted(key):
                yield key, tensor
        if stated is not None and digest.hexdigest(self.metadata) != stated:
            raise UserError(
                f"{self.path} is damaged: its contents do not match the digest in its header. Copy or download it"
                " again. If it was edited on purpose, --no-verify (verify=False) reads it anyway"
            )

    def read_all(self) -> dict[str, np.ndarray]:
        """All tensors, verified."""
        return dict(self.tensors())

    def _view(self, key: str) -> np.ndarray:
        if self.dtype(key) not in _FLOATS:
            return self._get(key)
        return self._mapped_file().view(key)

    def _mapped_file(self) -> _MappedFile:
        if self._mapped is None:
            self._mapped = _MappedFile(self.path)
        return self._mapped

    def _get(self, key: str) -> np.ndarray:
        try:
            if self.dtype(key) in _FLOAT8:
                return self._mapped_file().view(key).copy()
            return self._file.get_tensor(key)
        except _UNREADABLE as error:
            raise UserError(f"{self.path}: cannot read {key} ({error}): copy or download the file again") from error


class _MappedFile:
    """A file that safetensors has checked, as memory."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, np.uint8, "r")
        self._start = 8 + struct.unpack("<Q", self._bytes[:8].tobytes())[0]
        self._header = json.loads(self._bytes[8 : self._start].tobytes())

    def view(self, key: str) -> np.ndarray:
        """A read-only view of a tensor of floats."""
        entry = self._header[key]
        start, end = (self._start + offset for offset in entry["data_offsets"])
        dtype = (_KINDS | _FLOAT8)[entry["dtype"]]
        return np.asarray(self._bytes[start:end]).view(dtype).reshape(entry["shape"])


def forget_pages(tensor: np.ndarray) -> None:
    """Free the memory of a view of a mapped file (`TensorFile.tensors`). It is read again when it is used again."""
    owner: Any = tensor
    while owner is not None and not isinstance(owner, np.memmap):
        owner = getattr(owner, "base", None)
    while isinstance(inner := getattr(owner, "base", None), np.memmap):
        owner = inner
    mapping = getattr(owner, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def read_tensor_at(path: Path, key: str) -> np.ndarray:
    """One tensor of floats, read without mapping the file. Not verified. Raises: UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = 8 + struct.unpack("<Q", file.read(8))[0]
            entry = json.loads(file.read(start - 8))[key]
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            data = file.read(end - begin)
        return np.frombuffer(data, _KINDS[entry["dtype"]]).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UserError(f"{path}: cannot read {key} ({error}): it was changed while it was read") from error


@contextmanager
def open_tensors(path: str | Path, what: str = "file", verify: bool = True) -> Iterator[TensorFile]:
    """Open a safetensors file.

    Args:
        path: the file.
        what: what it should be, for messages ("adapter file").
        verify: whether a digest in its header must match.

    Raises:
        UserError: the file does not exist, is a folder, is cut short, is not safetensors but a pickle, a web page …,
            or has names that no program gives.
    """
    path = Path(path).expanduser()
    _require_file(path, what)
    try:
        opened = safe_open(path, framework="numpy")
    except _UNREADABLE as error:
        raise UserError(_explain(path, error)) from error
    with opened as file:
        found = TensorFile(path, file, verify)
        if long := next((key for key in found.keys if len(key) > _LONGEST_NAME), None):
            raise UserError(
                f"{path}: a tensor has a name of {len(long)} characters ({long[:40]}…): this is no LoRA or model"
            )
        yield found


def read_metadata(path: str | Path, what: str = "file") -> dict[str, str]:
    """The texts in a file's header. Raises UserError like `open_tensors`."""
    with open_tensors(path, what) as file:
        return file.metadata


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays with a digest. Equal arrays and texts give equal bytes. Raises UserError like `stream_tensors`."""
    arrays = {key: np.asarray(tensor) for key, tensor in tensors.items()}
    stream_tensors(path, {k: (a.shape, a.dtype) for k, a in arrays.items()}, arrays.__getitem__, metadata)


def stream_tensors(
    path: str | Path,
    layout: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    make: Callable[[str], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file. `make(key)` gives one tensor at a time, so that a model is in memory only once.

    Args:
        path: the file; it is written beside its place and then moved there.
        layout: shape and type of every tensor, by key.
        make: gives the tensor of a key, of that shape and type, in any memory order.
        metadata: texts for the header. The digest is added to them.

    Raises:
        UserError: the file cannot be written.

    Source: the safetensors format: 8 bytes length, a header in JSON padded with spaces, the tensors in C order.
    """
    # Wide types come first, so that every tensor starts at a multiple of its width.
    order = sorted(layout, key=lambda key: (-layout[key][1].itemsize, key))
    texts = {key: value for key, value in sorted(metadata.items()) if key != DIGEST_KEY}
    header: dict[str, object] = {"__metadata__": {DIGEST_KEY: _PLACEHOLDER, **texts}}
    start = 0
    for key in order:
        shape, dtype = layout[key]
        end = start + prod(shape) * dtype.itemsize
        header[key] = {"dtype": _NAMES[dtype.name], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = TensorDigest()
    with open_atomic(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in order:
            shape, dtype = layout[key]
            tensor = np.asarray(make(key), order="C")
            if (tensor.shape, tensor.dtype) != (shape, dtype):
                raise ValueError(f"{key} is {tensor.dtype} {tensor.shape}, not {dtype} {shape} as announced")
            digest.add(key, tensor)
            file.write(tensor.reshape(-1).view(np.uint8).data)
        # The digest is known only now. It is as long as the placeholder.
        file.seek(8 + text.index(_PLACEHOLDER.encode()))
        file.write(digest.hexdigest(texts).encode())


def _require_file(path: Path, what: str) -> None:
    try:
        if path.is_dir():
            raise UserError(f"there is no {what} {path}: it is a folder; name the .safetensors file in it")
        if not path.exists():
            raise UserError(f"there is no {what} {path}")
        if not path.is_file():
            raise UserError(f"{path} is not an ordinary file")
    except (OSError, ValueError) as error:  # OSError for a loop of links, ValueError for a name with a NUL
        raise UserError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error


def _explain(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as unreadable:
        return f"cannot read {path}: {unreadable.strerror or unreadable}"
    # A safetensors file begins with the length of its header, whose first byte may be that of another format.
    if start[4:9] != b"\0\0\0\0{":
        for mark, kind in _OTHER_FORMATS:
            if start.lstrip().startswith(mark):
                return f"{path} is {kind}"
    if not start:
        return f"{path} is not a complete safetensors file (it is empty); copy or download it again"
    return f"{path} is not a complete safetensors file ({error}); copy or download it again"
