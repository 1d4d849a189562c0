"""Records in config.json what a run read. A run that is resumed is refused if its base or its pictures have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from blocklora_jax.pipeline import StableDiffusion
from train.concept.basis_record import KEY as BASIS_KEY
from train.concept.basis_record import recorded
from train.concept.class_pictures import holds_others
from train.concept.config import ConceptConfig
from train.concept.data import find_images
from train.concept.known_tokens import token_files
from train.concept.metadata_captions import METADATA
from train.concept.picture_files import find_pictures

# The key in config.json, beside those of the settings.
KEY = "input_digests"
# By setting, what its files hold.
_WORDS = {
    "model": "the weights of --model", "images": "the pictures, captions or masks in --images",
    "other_images": "the pictures in --other-images", "class_images": "the pictures in --class-images",
    "negative_tokens": "the tokens in --negative-tokens",
}  # fmt: skip
_MADE = "made by the base"  # in place of the digest of class pictures


def without_records(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a config.json, without what it records of files that the run read."""
    return {name: value for name, value in settings.items() if name not in (KEY, BASIS_KEY)}


def input_record(config: ConceptConfig, sd: StableDiffusion) -> dict[str, str]:
    """The digest of what each setting that names files reads, by setting. Names and contents count, not folders.

    Pictures of the class that the base makes have none: they follow from the base and the settings.
    """
    digests, erasure = {"model": sd.digest[:16]}, config.erasure
    digests["images"] = _digest(_picture_files(find_images(config.images), companions=True))
    if erasure.other_images is not None:
        digests["other_images"] = _digest(_picture_files(erasure.other_images, companions=False))
    if (folder := erasure.class_images) is not None:
        has_others = folder.is_dir() and holds_others(folder)
        digests["class_images"] = _digest(_picture_files(folder, companions=False)) if has_others else _MADE
    # With codewords they are not read.
    if config.tokens.negative_tokens is not None and config.token_side.negatives_from != "codewords":
        digests["negative_tokens"] = _digest(token_files(config.tokens.negative_tokens))
    return digests


def check_same_inputs(configs: Sequence[ConceptConfig], records: Sequence[Mapping[str, str]]) -> None:
    """Check what runs that are resumed read. New runs, and runs of older versions, are not checked.

    records: of each of `configs`, see `input_record`.

    Raises: UserError if a resumed run began with another base, or other pictures, captions, masks or negative tokens.
    """
    for config, now in zip(configs, records, strict=True):
        before = recorded(config, KEY)
        if changed := [name for name, digest in now.items() if before.get(name, digest) != digest]:
            given = config.settings()[changed[0]]
            shown = printable(" ".join(given) if isinstance(given, tuple) else str(given))
            raise UserError(
                f"cannot resume {config.out}: {_WORDS[changed[0]]} {shown} are not those that the run began with: "
                "put the old ones back, or begin again with another --out"
            )


def _picture_files(folder: Path, companions: bool) -> list[Path]:
    """The files that training reads of a folder of pictures. companions: also captions and masks."""
    files = [path for each in find_pictures(folder, companions, quiet=True) for path in each if path]
    return [*files, folder / METADATA] if companions else files


def _digest(paths: Iterable[Path]) -> str:
    """A digest of the names and contents of files. What cannot be read counts as empty: training says what is wrong."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\n{_content(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _content(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
