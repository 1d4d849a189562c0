"""Commands read and write files in object stores: their options get local copies, and results are uploaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from blocklora_jax.errors import UserError
from blocklora_jax.storage.address import is_remote, without_file_protocol
from blocklora_jax.storage.copies import errors_name_originals, with_originals
from blocklora_jax.storage.staged_files import StagedFiles

T = TypeVar("T")
# Gives the local copies for an address.
_Place = Callable[[str], list[Path]]
# Options that name what is written. A class of options may name others in `CHANGES`: folders in which it changes files.
_OUTPUTS = ("out", "save")
# Options that are texts, because they may name a file, a folder, a hub id, or something that comes with the package.
_TEXTS = ("model", "model_config", "base", "basis")
_STAGED: ContextVar[tuple[StagedFiles, ExitStack] | None] = ContextVar("staged", default=None)


@contextmanager
def files_in_buckets() -> Iterator[None]:
    """Within this context, options that `read_options` gives name local copies. At the end, outputs are uploaded.

    What is printed, and the texts of errors, name the addresses.

    Raises: UserError if something is not there, or cannot be written.
    """
    with errors_name_originals(), StagedFiles() as files, ExitStack() as streams:
        token = _STAGED.set((files, streams))
        try:
            yield
            files.upload()
        finally:
            _STAGED.reset(token)


def with_local_files(options: T) -> T:
    """`options` with local copies in the place of addresses; unchanged outside `files_in_buckets`."""
    staged = _STAGED.get()
    if staged is None or not is_dataclass(options):
        return options
    files, streams = staged
    values: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(options)}
    changed, overwrite = getattr(options, "CHANGES", ()), bool(values.get("overwrite"))
    # Outputs first: inputs among them are one file with them.
    places: dict[str, _Place] = {name: lambda url: [files.write(url, overwrite)] for name in _OUTPUTS}
    places |= {name: lambda url: [files.change(url)] for name in changed}
    places |= {name: files.read for name, value in values.items() if name not in places and _is_place(name, value)}
    local = {name: _localized(values[name], place) for name, place in places.items() if name in values}
    if files.is_used:
        for name in ("stdout", "stderr"):
            streams.enter_context(_translated(name))
    changes = {name: value for name, value in local.items() if value != values[name]}
    return cast(T, replace(cast(Any, options), **changes)) if changes else cast(T, options)


def _is_place(name: str, value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(each, Path) for each in value)
    return isinstance(value, Path) or name in _TEXTS


def _localized(value: Any, place: _Place) -> Any:
    """A path, a text, or a tuple of paths, with what `place` gives for addresses."""
    if isinstance(value, tuple):
        return tuple(path for each in value for path in _paths(each, place))
    if value is None:
        return None
    paths = _paths(value, place)
    if len(paths) != 1:
        raise UserError(f"{value} matches {len(paths)} files: name one")
    return type(value)(paths[0])


def _paths(value: str | Path, place: _Place) -> list[Any]:
    if is_remote(value):
        return list(place(str(value)))
    return [type(value)(without_file_protocol(str(value)))]


class _Translated:
    """A stream that names addresses, and not their local copies."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return self._stream.write(with_originals(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    stream = getattr(sys, name)
    setattr(sys, name, _Translated(stream))
    try:
        yield
    finally:
        setattr(sys, name, stream)
