"""The files of one command that are in object stores: local copies of what it reads, and of what it writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import temporary_beside
from blocklora_jax.io.locks import FOLDER_LOCK
from blocklora_jax.storage.address import has_pattern, url_of
from blocklora_jax.storage.copies import copy_object, fetch, matches, remember, staging_folder
from blocklora_jax.storage.objects import ObjectFolder, list_files, list_names

# A run's checkpoints, which only training reads.
_LEFT_OUT = ("checkpoints/",)
_TEMPORARY = ".blocklora-"
_MANY = 3  # names in a message

# Size and time of a file, by its address.
_Seen = dict[str, tuple[int, int]]


class StagedFiles:
    """A context for one command. What it wrote is uploaded by `upload`; the copies of outputs are removed at the end.

    An output is written into a folder that holds what the store has there, so that the command decides as on a disk
    what it replaces. Only what the command wrote or removed is changed in the store. New files never replace objects
    that appeared meanwhile. is_used: whether the command named anything in an object store.
    """

    def __init__(self) -> None:
        self._stack, self._root = ExitStack(), None
        self._outputs: list[str] = []
        self._roots: dict[Path, str] = {}
        self._before: _Seen = {}
        self._replace = self.is_used = False

    def __enter__(self) -> StagedFiles:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def read(self, address: str | Path) -> list[Path]:
        """Local copies of an input: one, or one of each that a pattern matches. Outputs must be named before.

        Raises: UserError if there is none.
        """
        self.is_used = True
        return [self._read(url) for url in (matches(address) if has_pattern(address) else [url_of(address)])]

    def change(self, address: str | Path) -> Path:
        """The local copy of a folder in which the command changes files, which are uploaded."""
        [copy] = self.read(address)
        self._watch(copy, f"{url_of(address)}/")
        return copy

    def write(self, address: str | Path, replace: bool = False) -> Path:
        """Where the command writes an output: a file, with others beside it that begin with its name, or a folder.

        replace: whether files may be replaced that the command could not see.
        """
        self.is_used = True
        url, place = url_of(address), self._place(url_of(address))
        parent, _, base = url.rpartition("/")
        folder = ObjectFolder(parent)
        for name in _names_of_output(folder, base):
            copy_object(folder, name, place.parent / name)
        self._outputs.append(url)
        self._replace |= replace
        protocol = url.partition("://")[0]
        self._watch(self._folder() / protocol, f"{protocol}://")
        return place

    def upload(self) -> None:
        """Upload what the command wrote, and remove what it removed. Files of folders come before those above them.

        Raises: UserError if objects would be replaced that the command could not see, or if the store refuses.
        """
        now = {url: seen for root, prefix in self._roots.items() for url, seen in _look(root, prefix).items()}
        changed = sorted((url for url in now if self._before.get(url) != now[url]), key=lambda u: (-u.count("/"), u))
        if not self._replace and (taken := [url for url in changed if url not in self._before and _exists(url)]):
            more = f" and {len(taken) - _MANY} more" if len(taken) > _MANY else ""
            raise UserError(
                f"nothing was written: {', '.join(taken[:_MANY])}{more} exist already; choose another name or folder"
            )
        try:
            for url in changed:
                self._send(url)
            for url in self._before.keys() - now.keys():
                folder, name = _split(url)
                folder.remove(name)
        except UserError as error:
            raise UserError(f"{error}. Not all is uploaded; the results are in {self._keep()}") from error

    def _read(self, url: str) -> Path:
        if inside := next((output for output in self._outputs if output.startswith(f"{url}/")), None):
            raise UserError(f"nothing was written: {inside} lies inside the input {url}: choose another place for it")
        if self._outputs and "/" in url.partition("://")[2] and (place := self._place(url)).exists():
            return place  # The command sees that it is an output too.
        copy = fetch(url, leave=_LEFT_OUT)
        remember(copy, url)
        return copy

    def _send(self, url: str) -> None:
        folder, name = _split(url)
        if not folder.upload(name, self._local(url), new=url not in self._before and not self._replace):
            raise UserError(f"{url} was written by somebody else at this moment")

    def _watch(self, root: Path, prefix: str) -> None:
        self._roots[root] = prefix
        remember(root, prefix.removesuffix("/"))
        self._before |= _look(root, prefix)

    def _place(self, url: str) -> Path:
        protocol, _, path = url.partition("://")
        if "/" not in path or ".." in PurePosixPath(path).parts:
            raise UserError(f"{url} is no place for files: name a folder or a file in a bucket")
        return self._folder() / protocol / path

    def _local(self, url: str) -> Path:
        root, prefix = next((root, prefix) for root, prefix in self._roots.items() if url.startswith(prefix))
        return root / url.removeprefix(prefix)

    def _folder(self) -> Path:
        """The folder of this command's outputs."""
        if self._root is None:
            self._root = self._stack.enter_context(temporary_beside(staging_folder() / "outputs" / "command"))
            self._root.mkdir(parents=True)
        return self._root

    def _keep(self) -> Path:
        kept = self._folder().with_name(f"kept-{secrets.token_hex(4)}")
        os.rename(self._folder(), kept)
        return kept


def _names_of_output(folder: ObjectFolder, base: str) -> Iterator[str]:
    """The names of the files that writing the output `base` could replace, as far as its name tells."""
    stem, dot, _ = base.rpartition(".")
    begins = (f"{stem}.", "README.md") if dot else (base,)
    for name in list_names(folder) if dot else [base]:
        if not name.startswith(begins):
            continue
        if folder.info(name) is not None:
            yield name
        else:
            yield from (f"{name}/{each}" for each in list_files(ObjectFolder(f"{folder}/{name}")))


def _look(root: Path, prefix: str) -> _Seen:
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return {
        prefix + file.relative_to(root).as_posix(): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if not file.name.startswith(_TEMPORARY) and not file.name.endswith(FOLDER_LOCK)
    }


def _exists(url: str) -> bool:
    folder, name = _split(url)
    return folder.info(name) is not None


def _split(url: str) -> tuple[ObjectFolder, str]:
    parent, _, name = url.rpartition("/")
    return ObjectFolder(parent), name
