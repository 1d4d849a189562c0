"""The files of a repository on the hub, or in its cache if there is no network. They are other people's files.

Only files of a few kinds are fetched, none of which can hold code: safetensors, JSON, Markdown and PNG.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from blocklora_jax.checks.names import plain_name
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HubAddress
from blocklora_jax.hub.explain import LOG_IN, class_names, explained, is_unreachable

FETCHED = (".safetensors", ".json", ".md", ".png")
# An adapter has at most 4 GiB of numbers, see `adapters.header`.
LARGEST = (4 << 30) + (64 << 20)
# A token, or whether to send the one that `hf auth login` stored. None: huggingface_hub decides.
Token = str | bool | None


def list_files(address: HubAddress, token: Token = None, beginning: str = "") -> dict[str, int]:
    """{path in the repository: bytes} of all files, from the hub, or from its cache if there is no network.

    Raises: UserError if the repository cannot be read. beginning: of the message if there is none.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(address.repository, revision=address.revision, files_metadata=True, token=token)
    except Exception as error:
        if is_unreachable(error):
            return _list_cached(address, error, beginning)
        raise _explain(error, address, beginning) from error
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def fetch_file(address: HubAddress, token: Token = None, size: int = 0) -> Path:
    """The file at `address.path`, in the hub's cache. It is downloaded if it is not there. size: in bytes, if known.

    Raises: UserError for a kind of file that is not read, a name that cannot be one on every system, a file that is
        larger than any adapter, and whatever prevents the download.
    """
    from huggingface_hub import hf_hub_download

    check_name(address)
    if size > LARGEST:
        raise UserError(f"{address} has {size / 2**30:.1f} GiB, more than any adapter: it was not fetched")
    try:
        return Path(hf_hub_download(address.repository, address.path, revision=address.revision, token=token))
    except Exception as error:
        raise _explain(error, address) from error


def check_name(address: HubAddress) -> None:
    """Raises UserError if the file at `address.path` is of a kind that is not fetched, or has an unsafe name."""
    path = PurePosixPath(address.path)
    if path.suffix.lower() not in FETCHED:
        raise UserError(
            f"{address} is not fetched: of other people's files only {', '.join(FETCHED)} are read, because others may"
            " hold code"
        )
    for part in path.parts:
        plain_name(part, f"{address}: the name")


def _list_cached(address: HubAddress, reason: Exception, beginning: str) -> dict[str, int]:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(address.repository, revision=address.revision, local_files_only=True)
    except Exception as error:
        # Not all files of a repository are fetched, so the whole is never there.
        folder = getattr(error, "snapshot_path", None)
        if folder is None:
            raise _explain(reason, address, beginning) from error
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): os.path.getsize(path) for path in sorted(root.rglob("*")) if path.is_file()
    }


def _explain(error: Exception, address: HubAddress, beginning: str = "") -> Exception:
    repository = address.repository
    if "EntryNotFoundError" in class_names(error) and not isinstance(error, FileNotFoundError):
        return UserError(f"{repository} on the Hugging Face hub has no file {address.path}")
    return explained(
        error,
        f"{repository!r}" + (f" at revision {address.revision!r}" if address.revision else ""),
        missing=f"{beginning}there is no repository {repository!r} on the Hugging Face hub, or it is private: then"
        f" {LOG_IN}",
        offline=f"{beginning}{address} is not in the Hugging Face cache and cannot be fetched (no network, or"
        " HF_HUB_OFFLINE is set)",
    )
