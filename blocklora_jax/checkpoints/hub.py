"""Finds a model's files: the bundled pocket model, a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import is_hub_id
from blocklora_jax.hub.explain import LOG_IN, NO_NETWORK, class_names, explained
from blocklora_jax.storage.copies import original

POCKET = "pocket"


@runtime_checkable  # for type checking in tests
class Source(Protocol):
    """A model's files."""

    @property
    def name(self) -> str:
        """The name that the user gave for the model."""
        ...

    def list_names(self) -> list[str]:
        """The names of all files, such as "unet/config.json"."""
        ...

    def fetch(self, patterns: Sequence[str]) -> Path:
        """Download the files that match one of the patterns, and return the folder that holds them."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """Files on this machine. name: the address if they are a copy of a folder in an object store."""

    name: str
    folder: Path

    def list_names(self) -> list[str]:
        return _list_folder(self.folder)

    def fetch(self, patterns: Sequence[str]) -> Path:
        return self.folder


@dataclass(frozen=True)
class HubRepository:
    """Files on the hub, or in its cache if there is no network."""

    name: str
    revision: str | None

    def list_names(self) -> list[str]:
        from huggingface_hub import HfApi

        try:
            return HfApi().list_repo_files(self.name, revision=self.revision)
        except Exception as error:
            if class_names(error) & NO_NETWORK:
                return _list_folder(self.fetch(["*"], from_cache=True))
            raise self._explain(error) from error

    def fetch(self, patterns: Sequence[str], from_cache: bool = False) -> Path:
        from huggingface_hub import snapshot_download

        at = {"revision": self.revision, "local_files_only": from_cache}
        try:
            return Path(snapshot_download(self.name, allow_patterns=list(patterns), **at))
        except Exception as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> Exception:
        """The UserError that explains an error of huggingface_hub; other errors are returned unchanged."""
        return explained(
            error,
            f"{self.name!r}" + (f" at revision {self.revision!r}" if self.revision else ""),
            missing=f"{self.name!r} is neither a folder here nor a (public) repository on the Hugging Face hub; for a"
            f" private one {LOG_IN}",
            offline=f"{self.name!r} is not a folder here, and its files are not in the Hugging Face cache and cannot be"
            " fetched (no network, or HF_HUB_OFFLINE is set)",
        )


def find_source(name: str | os.PathLike[str], revision: str | None = None) -> Source:
    """The source of the files of `name`: "pocket", a folder, or a hub id "owner/name". Nothing is fetched yet.

    Raises:
        UserError: `name` is a path but not a folder, or neither a path nor a hub id; or a revision is given for a
            folder.
    """
    text = os.fspath(name)
    path = Path(__file__).parents[1] / POCKET / "weights" if text == POCKET else Path(text).expanduser()
    if text and path.is_dir():  # Path("") is the working directory
        if revision is not None:
            raise UserError(f"a revision ({revision!r}) is only for hub repositories; {text!r} is a folder")
        return LocalFolder(original(text), path)
    if text == POCKET:
        raise UserError(f"this installation lacks the pocket model ({path}); install the package again")
    if path.is_file():
        raise UserError(f"{text} is a file, but a Diffusers folder or a hub id is needed")
    if not isinstance(name, str) or not is_hub_id(text):
        raise UserError(
            f"there is no folder {text!r}; a model is {POCKET!r}, a Diffusers folder, a single .safetensors file, or"
            " a hub id 'owner/name'"
        )
    return HubRepository(text, revision)


def _list_folder(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file())
