"""Addresses of object stores, such as gs://bucket/runs. A `Path` of one has lost a slash, which is put back."""

from __future__ import annotations

import hashlib
import re
from os import PathLike
from pathlib import PurePosixPath

# Which package of fsspec opens them. "memory" is for tests.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
_ADDRESS = re.compile(rf"({'|'.join(PACKAGES)}):/{{1,2}}([^/].*)", re.DOTALL)


def is_remote(path: str | PathLike[str]) -> bool:
    """Whether `path` is in an object store.

    >>> is_remote("gs://bucket/run"), is_remote("runs/ada"), is_remote("hub:owner/dataset")
    (True, False, False)
    """
    return bool(_ADDRESS.fullmatch(str(path)))


def url_of(path: str | PathLike[str]) -> str:
    """The address as it was typed.

    >>> from pathlib import Path
    >>> url_of(Path("gs://bucket/run/"))
    'gs://bucket/run'
    """
    match = _ADDRESS.fullmatch(str(path))
    if match is None:
        raise ValueError(f"{path} is not in an object store")
    return f"{match[1]}://{match[2].rstrip('/')}"


def has_pattern(path: str | PathLike[str]) -> bool:
    """Whether an address stands for several files, as a shell's patterns do.

    >>> has_pattern("s3://bucket/runs/*/adapter.safetensors"), has_pattern("s3://bucket/ada.safetensors")
    (True, False)
    """
    return is_remote(path) and "*" in str(path)


def without_file_protocol(path: str) -> str:
    """A path that was given as file://…, as a plain path; other texts unchanged.

    >>> without_file_protocol("file:///data/ada.safetensors"), without_file_protocol("runs/ada")
    ('/data/ada.safetensors', 'runs/ada')
    """
    match = re.fullmatch(r"file:(?://)?(/.*)", path, re.DOTALL)
    return f"/{match[1].lstrip('/')}" if match else path


def local_name(url: str) -> str:
    """The name of a local copy: the same on every machine, different for every address, and readable.

    >>> local_name("gs://bucket/models/sd15")
    'ceefd7e4/sd15'
    """
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}/{PurePosixPath(url).name}"
