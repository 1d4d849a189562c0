"""Pictures from a dataset repository on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HUB, parse_address
from blocklora_jax.hub.explain import LOG_IN, explained
from train.concept.metadata_captions import METADATA
from train.concept.picture_files import SUFFIXES


def fetch_pictures(name: str) -> Path:
    """The folder of pictures that "hub:owner/dataset" or "hub:owner/dataset/folder" names, from the hub or its cache.

    Only pictures, captions and masks of that one folder are fetched, not those of folders in it.

    Raises: UserError for a malformed name, a repository that cannot be fetched, and a folder without pictures.
    """
    repository, folder, revision = parse_address(name, "dataset")
    before = f"{folder}/" if folder else ""
    endings = [ending for suffix in (*SUFFIXES, ".txt") for ending in (suffix, suffix.upper())]
    patterns = [*(f"{before}*{ending}" for ending in endings), f"{before}{METADATA}"]
    found = _download(repository, revision, patterns, f"{before}*/*") / folder
    if not found.is_dir() or not any(path.suffix.lower() in SUFFIXES for path in found.iterdir()):
        where = f"the folder {folder} of the dataset {repository}" if folder else f"the dataset {repository}"
        raise UserError(
            f"{where} has no picture files: name the folder that has them, as in {HUB}{repository}/train; datasets in"
            " Parquet files are not read"
        )
    return found


def _download(repository: str, revision: str | None, patterns: list[str], ignored: str) -> Path:
    from huggingface_hub import snapshot_download

    at = {"repo_type": "dataset", "revision": revision}
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=[ignored], **at))
    except Exception as error:
        begin = f"cannot fetch the dataset {repository} from the Hugging Face hub"
        raise explained(
            error,
            f"dataset {repository}" + (f" at revision {revision!r}" if revision else ""),
            missing=f"{begin}: there is no such public dataset; for a private one {LOG_IN}",
            offline=f"{begin}: no network, or HF_HUB_OFFLINE is set, and it is not in the Hugging Face cache",
        ) from error
