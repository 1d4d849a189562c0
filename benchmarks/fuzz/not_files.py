"""Other things in the place of a file of the expected kind."""

from __future__ import annotations

import gzip
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345678\n"


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return path


def _write(data: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return make


def _link(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target.replace("{name}", path.name))
        return path

    return make


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # because its path must be shorter than 108 bytes
        server.bind(path.name)
        os.chdir(here)
    return path


# Each function takes the path of the file, puts something there, and returns the path to read.
NOT_FILES: Mapping[str, Callable[[Path], Path]] = {
    "nothing": lambda path: path,
    "a folder": _folder,
    "an empty file": _write(b""),
    "one byte": _write(b"\x08"),
    "a web page": _write(b"<!DOCTYPE html><html><body>Log in</body></html>"),
    "a web page after blanks": _write(b"\n\n  <html><body>404</body></html>"),
    "a pickle": _write(pickle.dumps({"weights": [1.0, 2.0]})),
    "a zip archive": _zip,
    "a gzip archive": _write(gzip.compress(b"weights", mtime=0)),
    "a Git LFS pointer": _write(_LFS.encode()),
    "a GGUF file": _write(b"GGUF\x03\x00\x00\x00" + bytes(64)),
    "a JSON text": _write(b'{"weights": []}'),
    "a picture": _write(b"\x89PNG\r\n\x1a\n" + bytes(64)),
    "text": _write(b"hello world, this is a note\n" * 10),
    "control characters": _write(b"\x1b[31m\x1b]0;owned\x07\r\n" * 10),
    "zeros": _write(bytes(4096)),
    "a header of 2^63 bytes": _write(struct.pack("<Q", 1 << 63) + b"{}"),
    "a header of 10^9 bytes": _write(struct.pack("<Q", 10**9) + b"{}      "),
    "a link to itself": _link("{name}"),
    "a link to nowhere": _link("nowhere"),
    "a device without end": _link("/dev/zero"),
    "an empty device": _link("/dev/null"),
    "a named pipe": _pipe,
    "a socket": _socket,
    "a name of 5,000 letters": lambda path: path.with_name("x" * 5000),
    "a name with a NUL": lambda path: path.with_name("a\0b"),
    "a name with half a character": lambda path: path.with_name("a\udcffb.safetensors"),
    "a name with an escape sequence": lambda path: path.with_name("a\x1b[31m\nb.safetensors"),
    "a file as a folder": lambda path: _write(b"x")(path) / "adapter.safetensors",
}
