"""Addresses on the Hugging Face hub: "hub:owner/name", with a revision and a path in the repository if needed."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable

HUB = "hub:"
_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
_HUB_ID = re.compile(_ID)
# As in huggingface_hub's `hf://owner/name@revision/path`. Only the hub's own branches have a slash.
_ADDRESS = re.compile(
    rf"(?P<repository>{_ID})(?:@(?P<revision>refs/(?:pr|convert)/\w+|[\w.+-]+))?(?P<path>(?:/[\w-][\w. ()+,=-]*)*)/?"
)


class HubAddress(NamedTuple):
    """A place on the hub.

    repository: "owner/name". path: a file or a folder in it; "" for its root. revision: a branch, a tag or a commit;
    None for the main branch.
    """

    repository: str
    path: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        # A path may come from the listing of somebody's repository.
        return printable(f"{HUB}{self.repository}{revision}{'/' if self.path else ''}{self.path}")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a repository's id.

    >>> is_hub_id("owner/name"), is_hub_id("./runs"), is_hub_id("a/b/c")
    (True, False, False)
    """
    return _HUB_ID.fullmatch(text) is not None


def is_hub_address(name: str | os.PathLike[str]) -> bool:
    """Whether `name` begins with "hub:" and is not a file or folder here."""
    return os.fspath(name).startswith(HUB) and not os.path.exists(name)


def parse_address(name: str | os.PathLike[str], kind: str = "name") -> HubAddress:
    """The address that `name` gives, with or without "hub:" before it. kind: what the repository is, for the error.

    Raises: UserError for anything else, also for a path with "..".

    >>> parse_address("hub:someone/dog@v2/small/adapter.safetensors")
    HubAddress(repository='someone/dog', path='small/adapter.safetensors', revision='v2')
    """
    # `Path` writes backslashes on Windows.
    text = os.fspath(name).replace(os.sep, "/")
    match = _ADDRESS.fullmatch(text.removeprefix(HUB))
    if match is None:
        raise UserError(
            f"{printable(text)!r} must be like {HUB}owner/{kind}, or {HUB}owner/{kind}/folder; a revision stands after"
            f" the {kind}, as in {HUB}owner/{kind}@main"
        )
    return HubAddress(match["repository"], match["path"].strip("/"), match["revision"])


def parse_repository(text: str) -> str:
    """The id of the repository that `text` names: "owner/name" or "hub:owner/name".

    Raises: UserError for anything else, also if a path or a revision follows.
    """
    if not is_hub_id(repository := text.removeprefix(HUB)):
        raise UserError(f"{printable(text)!r} is not the name of a repository on the hub: write it as owner/name")
    return repository
