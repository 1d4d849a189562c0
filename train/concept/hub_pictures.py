"""Pictures from a dataset repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from blocklora_jax.errors import UserError
from train.concept.metadata_captions import METADATA
from train.concept.picture_files import SUFFIXES

HUB = "hub:"
_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?P<folder>(/[\w-][\w. -]*)*)/?")


def fetch_pictures(name: str) -> Path:
    """The folder of pictures that "hub:owner/dataset" or "hub:owner/dataset/folder" names, from the hub or its cache.

    Only pictures, captions and masks of that one folder are fetched, not those of folders in it.

    Raises: UserError for a malformed name, a repository that cannot be fetched, and a folder without pictures.
    """
    match = _NAME.fullmatch(name.removeprefix(HUB))
    if match is None:
        raise UserError(f"{name!r} must be like {HUB}owner/dataset, or {HUB}owner/dataset/folder")
    repository, folder = match["repository"], match["folder"].strip("/")
    before = f"{folder}/" if folder else ""
    endings = [ending for suffix in (*SUFFIXES, ".txt") for ending in (suffix, suffix.upper())]
    patterns = [*(f"{before}*{ending}" for ending in endings), f"{before}{METADATA}"]
    found = _download(repository, patterns, f"{before}*/*") / folder
    if not found.is_dir() or not any(path.suffix.lower() in SUFFIXES for path in found.iterdir()):
        where = f"the folder {folder} of the dataset {repository}" if folder else f"the dataset {repository}"
        raise UserError(
            f"{where} has no picture files: name the folder that has them, as in {HUB}{repository}/train; datasets in"
            " Parquet files are not read"
        )
    return found


def _download(repository: str, patterns: list[str], ignored: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=patterns, ignore_patterns=[ignored])
        )
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "GatedRepoError" in kinds:
            reason = "accept its terms there, then run `hf auth login`"
        elif "RepositoryNotFoundError" in kinds:
            reason = "there is no such public dataset"
        elif kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "TransportError"}:
            reason = "no network, or HF_HUB_OFFLINE is set, and it is not in the Hugging Face cache"
        elif isinstance(error, OSError) or kinds & {"HfHubHTTPError", "HTTPError"}:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            raise
        raise UserError(f"cannot fetch the dataset {repository} from the Hugging Face hub: {reason}") from error
