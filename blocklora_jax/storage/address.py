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


def local_name(url: str) -> str:
    """The name of a local copy: the same on every machine, different for every address, and readable.

    >>> local_name("gs://bucket/models/sd15")
    'ceefd7e4/sd15'
    """
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}/{PurePosixPath(url).name}"
