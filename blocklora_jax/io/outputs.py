"""What a command will write, looked at as a whole before the first byte: nothing of the user's is replaced unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blocklora_jax.errors import UserError

SOFTWARE = "blocklora_jax"
# In the header of safetensors that we write: what they are.
KIND_KEY = "blocklora_kind"
MANIFEST = "blocklora.json"  # of the folders of models that we write

Kind = Literal[
    "picture", "adapter", "lora", "tokens", "model file", "model folder", "card", "basis", "strangers", "run"
]
# What a run of the same command makes again. An adapter is the fruit of a training: it is replaced on request only.
_REMADE = ("picture", "lora", "tokens", "model file", "model folder", "card")


@dataclass(frozen=True)
class Output:
    """A file or folder that a command will write.

    path: where. kind: what it will be; "model folder" and "run" are folders. flag, typed: how the user named it, for
    messages: "--out", and a path if it is not this one.
    """

    path: Path
    kind: Kind
    flag: str = "--out"
    typed: Path | None = None

    def __str__(self) -> str:
        return f"{self.flag} {self.typed or self.path}"

    @property
    def is_folder(self) -> bool:
        """Whether a folder is written."""
        return self.kind in ("model folder", "run")


def plan_outputs(
    outputs: Sequence[Output], inputs: Iterable[str | os.PathLike[str] | None] = (), *, overwrite: bool = False
) -> None:
    """Raise one UserError for all that speaks against writing `outputs`; nothing is written here.

    An output may not be, contain, or lie inside an input or the base model, nor be another output. What is there
    already is replaced only if a command of ours made it as the same kind of thing, or with `overwrite`. An adapter is
    replaced with `overwrite` only.

    Args:
        outputs: everything that the command will write.
        inputs: files and folders that it reads, and the base model; what is no path here (a hub id, None) does not
            count.
        overwrite: whether the user asked to replace what is there.
    """
    read = {_resolved(path): str(path) for path in inputs if path is not None and _is_here(path)}
    around = {folder: name for path, name in read.items() for folder in path.parents}
    planned: dict[Path, Output] = {}
    problems: list[str] = []
    for output in outputs:
        path = _resolved(output.path)
        found = _clash(output, path, read, around) or _twice(output, path, planned) or _unwritable(output)
        if not found and not overwrite:
            found = _unasked(output)
        if found and found not in problems:
            problems.append(found)
        planned[path] = output
    problems += _nested(planned)
    if problems:
        raise UserError("nothing was written: " + "; ".join(problems))


def _clash(output: Output, path: Path, read: Mapping[Path, str], around: Mapping[Path, str]) -> str | None:
    """Whether the output is, contains, or lies inside something that is read. around: folders above what is read."""
    named = str(output)
    if path in read:
        return f"{named} is an input of this command: choose another {output.flag}"
    if output.is_folder and path in around:
        return f"{named} contains the input {around[path]}: choose another {output.flag}"
    if above := next((read[folder] for folder in path.parents if folder in read), None):
        return f"{named} lies inside the input {above}: choose another {output.flag}"
    return None


def _twice(output: Output, path: Path, planned: Mapping[Path, Output]) -> str | None:
    if path in planned:
        return f"two outputs would be the same file {output.typed or output.path}: give them different names"
    return None


def _nested(planned: Mapping[Path, Output]) -> list[str]:
    """Outputs that lie in a folder which is an output itself."""
    found = []
    for path, output in planned.items():
        other = next((planned[above] for above in path.parents if above in planned and planned[above].is_folder), None)
        if other is not None:
            found.append(f"{output} and {other} lie one inside the other: put them apart")
    return found


def _unwritable(output: Output) -> str | None:
    path, named = output.path.expanduser(), str(output)
    if path.is_dir() and not output.is_folder:
        return f"{named} is a folder, where a file is to be written: name a file in it"
    if path.exists() and output.is_folder and not path.is_dir():
        return f"{named} cannot be a folder: there is a file of that name"
    there = next(folder for folder in [path, *path.absolute().parents] if folder.exists() or folder == folder.parent)
    if there != path and not there.is_dir():
        return f"cannot write {named}: {there} is a file"
    if not os.access(there if there.is_dir() else there.parent, os.W_OK):
        return f"cannot write {named}: {there} allows no writing"
    return None


def _unasked(output: Output) -> str | None:
    """Whether something is there that a command of ours did not make as the same kind of thing."""
    path, named = output.path.expanduser(), str(output)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if output.kind in _REMADE and _made_by_us(path, output.kind):
        return None
    if output.is_folder:
        return (
            f"will not overwrite {named}: it holds files that this program did not write there. Choose another folder,"
            " or give --overwrite (overwrite=True), which replaces those of the same names and leaves the others"
        )
    return f"will not overwrite {named}: choose another name, or give --overwrite (overwrite=True)"


def _made_by_us(path: Path, kind: Kind) -> bool:
    if kind == "model folder":
        return (path / MANIFEST).is_file()
    if kind == "card":
        return True  # its own marker decides, see merge/export/model_card.py
    return kind_of_file(path) == kind


def kind_of_file(path: Path) -> str:
    """What a file of ours says that it is; "" for any other file."""
    if path.suffix.lower() == ".png":
        return "picture" if _software(path) == SOFTWARE else ""
    from blocklora_jax.io.tensor_file import read_metadata

    try:
        return read_metadata(path).get(KIND_KEY, "")
    except UserError:
        return ""


def _software(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return str(picture.info.get("Software", ""))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def _is_here(path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:
        return False


def _resolved(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, links followed; equal for paths that name one file."""
    real = os.path.realpath(os.path.expanduser(path))
    return Path(os.path.normcase(real) if os.name == "nt" else real)
