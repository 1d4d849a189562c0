"""Which files in a folder are pictures, captions and masks, and which are ignored."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from blocklora_jax.checks.names import same_name
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable

SUFFIXES = tuple(".png .jpg .jpeg .webp .heic .heif .hif .avif .gif .tif .tiff .bmp .jfif .jpe".split())
# Endings of pictures and captions that are not read.
_OTHER_SUFFIXES = tuple(".jxl .jp2 .psd .svg .dng .raw .cr2 .cr3 .nef .arw .orf .rw2 .raf .caption".split())
MOST_NAMED = 5
# Files by `same_name` of their name.
_Named = dict[str, list[Path]]


class PictureFiles(NamedTuple):
    """A picture file, its caption file and its mask file. None: there is no such file."""

    path: Path
    caption: Path | None = None
    mask: Path | None = None


def find_pictures(folder: Path, companions: bool = True, quiet: bool = False) -> list[PictureFiles]:
    """The picture files of `folder` (see `SUFFIXES`), sorted by name, with `name.txt` and `name.mask.png`.

    Names may be in upper or lower case. Hidden files ("._a.jpg") and all folders ("__MACOSX") are ignored. One warning
    names captions without a picture and pictures of other kinds.

    Args:
        folder: of pictures.
        companions: False to ignore captions and masks; masks are never read as pictures.
        quiet: no warning.

    Raises: UserError for a folder that cannot be read or has no pictures, a mask without a picture or of another kind
        than PNG, and a picture with two captions or two masks.
    """
    files, folders = _list(folder)
    masks = [path for path in files if _is_mask(path)]
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES and not _is_mask(path)]
    unread = [path for path in files if path.suffix.lower() in _OTHER_SUFFIXES and not _is_mask(path)]
    notes = [f"{_some(unread)} (only {', '.join(SUFFIXES)} and captions in .txt are read)"] if unread else []
    if not pictures:
        pictured = [path for path in folders if path.suffix.lower() in SUFFIXES]
        notes += [f"cannot read {_some(pictured)} (a folder)"] if pictured else []
        full = [path for path in folders if path not in pictured and _holds_pictures(path)]
        notes += [f"there are pictures in its folder {_some(full)}: give that one"] if full else []
        raise UserError("; ".join([f"{printable(str(folder))} has no pictures ({', '.join(SUFFIXES)})", *notes]))
    sets = [PictureFiles(path) for path in pictures]
    if companions:
        captions = [path for path in files if path.suffix.lower() == ".txt"]
        sets = _with_companions(sets, captions, masks)
        lone = _without_picture(captions, [each.caption for each in sets])
        notes += [f"{_some(lone)} (no picture of that name: a.txt is the caption of a.png)"] if lone else []
    if notes and not quiet:
        warnings.warn(f"{printable(str(folder))}: ignored: {'; '.join(notes)}", stacklevel=2)
    return sets


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders in `folder`; both sorted, without hidden ones."""
    try:
        if not folder.is_dir():
            raise UserError(f"there is no folder of pictures {printable(str(folder))}")
        seen = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        folders = [path for path in seen if path.is_dir()]
    except OSError as error:
        raise UserError(f"cannot read the folder {printable(str(folder))}: {error.strerror}") from error
    return [path for path in seen if path not in set(folders)], folders


def _holds_pictures(folder: Path) -> bool:
    """Whether a folder in the given one may be meant. "__MACOSX" holds what macOS knows about the files of a ZIP."""
    if folder.name.startswith("__"):
        return False
    try:
        return any(p.suffix.lower() in SUFFIXES and not p.name.startswith(".") for p in folder.iterdir())
    except OSError:
        return False


def _is_mask(path: Path) -> bool:
    return path.stem.lower().endswith(".mask") and path.suffix.lower() in (*SUFFIXES, *_OTHER_SUFFIXES)


def _with_companions(pictures: list[PictureFiles], captions: list[Path], masks: list[Path]) -> list[PictureFiles]:
    """`pictures` with captions and masks. Raises: UserError for a mask that is not a PNG or belongs to no picture."""
    if wrong := [path for path in masks if path.suffix.lower() != ".png"]:
        name = printable(wrong[0].name)
        raise UserError(
            f"{printable(str(wrong[0].parent))}: masks are PNG files: save {name} as {wrong[0].stem}.png, or rename it"
        )
    by_name, captions_by_name, masks_by_name = map(_by_name, ([each.path for each in pictures], captions, masks))
    complete = [
        PictureFiles(
            each.path,
            _companion(each.path, captions_by_name, by_name),
            _companion(each.path, masks_by_name, by_name),
        )
        for each in pictures
    ]
    if lone := _without_picture(masks, [each.mask for each in complete]):
        raise UserError(
            f"{printable(str(lone[0].parent))}: no picture belongs to {_some(lone)}: a.mask.png is the mask of a.png;"
            " rename or remove the masks without a picture"
        )
    return complete


def _companion(picture: Path, files: _Named, pictures: _Named) -> Path | None:
    """The file of `files` with the name of `picture`. Upper and lower case may differ if only one file can be meant."""
    key = same_name(picture.stem)
    candidates = files.get(key, [])
    exact = [path for path in candidates if _base(path) == picture.stem]
    chosen = exact or ([] if any(other.stem != picture.stem for other in pictures[key]) else candidates)
    if len(chosen) > 1:
        raise UserError(
            f"{printable(str(picture.parent))}: {_some(chosen)} all belong to {printable(picture.name)}: keep one"
        )
    return chosen[0] if chosen else None


def _by_name(paths: Sequence[Path]) -> _Named:
    named: _Named = {}
    for path in paths:
        named.setdefault(same_name(_base(path)), []).append(path)
    return named


def _base(path: Path) -> str:
    """The name without .png, .txt or .mask.png."""
    return path.stem[: -len(".mask")] if _is_mask(path) else path.stem


def _without_picture(files: Sequence[Path], used: Iterable[Path | None]) -> list[Path]:
    taken = set(used)
    return [path for path in files if path not in taken]


def _some(paths: Sequence[Path]) -> str:
    """The names of `paths`; if there are many, only the first few."""
    names = ", ".join(printable(path.name) for path in paths[:MOST_NAMED])
    return names if len(paths) <= MOST_NAMED else f"{names} and {len(paths) - MOST_NAMED} more"
