"""Writes files into a repository on the hub: one commit, which keeps what was there in the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from blocklora_jax.errors import UserError
from blocklora_jax.hub.explain import LOG_IN, class_names, explained, first_line, is_missing
from blocklora_jax.hub.files import Token


class Held(NamedTuple):
    """What a repository holds. files: {path: bytes}. commit: its newest one."""

    files: Mapping[str, int]
    commit: str | None
    private: bool


def require_token(repository: str, token: Token = None) -> None:
    """Raises UserError if nothing can be pushed, because nobody is logged in."""
    from huggingface_hub import get_token

    if token is False or not (token if isinstance(token, str) else get_token()):
        raise UserError(f"pushing to {repository} needs a token that may write: {LOG_IN}")


def held_by(repository: str, token: Token = None) -> Held | None:
    """What the repository holds now; None if there is none of this name. Raises UserError if it cannot be seen."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, files_metadata=True, token=token)
    except Exception as error:
        if is_missing(error):
            return None
        raise _explain(error, repository) from error
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return Held(files, info.sha, bool(info.private))


def exists(repository: str, token: Token = None) -> bool:
    """Whether there is a repository of this name that one may see."""
    return held_by(repository, token) is not None


def upload(
    repository: str,
    files: Mapping[str, Path],
    *,
    delete: Sequence[str] = (),
    message: str,
    private: bool = False,
    parent: str | None = None,
    token: Token = None,
) -> str:
    """Write and delete files of a repository, in one commit. A repository that is missing is made. Gives its address.

    Args:
        repository: "owner/name".
        files: by the path in the repository.
        delete: paths in the repository.
        message: of the commit.
        private: whether only its owner may see a new repository. If False, the owner's settings decide.
        parent: the commit that was looked at. If there is a newer one, nothing is written.
        token: that may write.

    Raises: UserError for whatever prevents it.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    added = [CommitOperationAdd(name, path) for name, path in files.items()]
    deleted = [CommitOperationDelete(name) for name in delete]
    try:
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.create_commit(repository, [*added, *deleted], commit_message=message, parent_commit=parent)
    except Exception as error:
        raise _explain(error, repository) from error
    return str(url)


def _explain(error: Exception, repository: str) -> Exception:
    if isinstance(error, ValueError) and "Invalid metadata" in str(error):
        return UserError(f"the hub refuses the model card: {' '.join(str(error).split())}")
    if "LocalTokenNotFoundError" in class_names(error):
        return UserError(f"pushing to {repository} needs a token that may write: {LOG_IN}")
    fault = explained(
        error,
        repository,
        missing=f"cannot write to {repository} on the Hugging Face hub: there is none that this token may see",
        offline=f"cannot reach {repository} on the Hugging Face hub: no network, or HF_HUB_OFFLINE is set",
        action="write to",
    )
    if fault is error and isinstance(error, (RuntimeError, ValueError)):
        return UserError(f"cannot write to {repository} on the Hugging Face hub: {first_line(error)}")
    return fault
