"""Checks everything that a command will write before it writes, so that no file of the user is replaced unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blocklora_jax.errors import UserError

SOFTWARE = "blocklora_jax"
# The entry in the header of safetensors that we write which says what kind of file it is.
KIND_KEY = "blocklora_kind"
MANIFEST = "blocklora.json"  # in the model folders that we write

Kind = Literal[
    "picture", "adapter", "lora", "tokens", "model file", "model folder", "card", "report", "basis", "strangers", "run"
]
# Kinds that the same command can make again. An adapter is the result of a training, so it is not one of them.
_REMADE = ("picture", "lora", "tokens", "model file", "model folder", "card")


@dataclass(frozen=True)
class Output:
    """A file or folder that a command will write.

    path: the file or folder.
    kind: what it will be; "model folder" and "run" are folders.
    flag: the flag with which the user named it, for messages.
    typed: the path that the user typed, for messages, if it is not `path`.
    """

    path: Path
    kind: Kind
    flag: str = "--out"
    typed: Path | None = None

    def __str__(self) -> str:
        return f"{self.flag} {self.typed or self.path}"

    @property
    def is_folder(self) -> bool:
        """Whether the output is a folder."""
        return self.kind in ("model folder", "run")


def plan_outputs(
    outputs: Sequence[Output], inputs: Iterable[str | os.PathLike[str] | None] = (), *, overwrite: bool = False
) -> None:
    """Raise one UserError that names everything that forbids writing `outputs`. Nothing is written here.

    An output may not be, contain, or lie inside an input or the base model, and may not be the same as another output.
    An existing file is replaced only if a command of ours made it as the same kind of file, or with `overwrite`. An
    adapter is replaced only with `overwrite`.

    Args:
        outputs: everything that the command will write.
        inputs: files and folders that it reads, and the base model. What is not an existing path (a hub id, None) is
            ignored.
        overwrite: whether the user asked to replace existing files.
    """
    read = {_resolved(path): str(path) for path in inputs if path is not None and _is_here(path)}
    around = {folder: name for path, name in read.items() for folder in path.parents}
    planned: dict[Path, Output] = {}
    problems: list[str] = []
    for output in outputs:
        path = _resolved(output.path)
        problem = (
            _input_problem(output, path, read, around)
            or _duplicate_problem(output, path, planned)
            or _write_problem(output)
        )
        if not problem and not overwrite:
            problem = _overwrite_problem(output)
        if problem and problem not in problems:
            problems.append(problem)
        planned[path] = output
    problems += _nested(planned)
    if problems:
        raise UserError("nothing was written: " + "; ".join(problems))


def _input_problem(output: Output, path: Path, read: Mapping[Path, str], around: Mapping[Path, str]) -> str | None:
    """Whether the output is, contains, or lies inside an input. around: the folders that contain inputs."""
    named = str(output)
    if path in read:
        return f"{named} is an input of this command: choose another {output.flag}"
    if output.is_folder and path in around:
        return f"{named} contains the input {around[path]}: choose another {output.flag}"
    if above := next((read[folder] for folder in path.parents if folder in read), None):
        return f"{named} lies inside the input {above}: choose another {output.flag}"
    return None


def _duplicate_problem(output: Output, path: Path, planned: Mapping[Path, Output]) -> str | None:
    if path in planned:
        return f"two outputs would be the same file {output.typed or output.path}: give them different names"
    return None


def _nested(planned: Mapping[Path, Output]) -> list[str]:
    """The problems of outputs that lie in a folder which is an output itself."""
    problems = []
    for path, output in planned.items():
        other = next((planned[above] for above in path.parents if above in planned and planned[above].is_folder), None)
        if other is not None:
            problems.append(f"{output} and {other} lie one inside the other: choose separate places")
    return problems


def _write_problem(output: Output) -> str | None:
    path, named = output.path.expanduser(), str(output)
    if path.is_dir() and not output.is_folder:
        return f"{named} is a folder, but a file is to be written: name a file in it"
    if path.exists() and output.is_folder and not path.is_dir():
        return f"{named} cannot be a folder: there is a file of that name"
    existing = next(folder for folder in [path, *path.absolute().parents] if folder.exists() or folder == folder.parent)
    if existing != path and not existing.is_dir():
        return f"cannot write {named}: {existing} is a file"
    if not os.access(existing if existing.is_dir() else existing.parent, os.W_OK):
        return f"cannot write {named}: {existing} is not writable"
    return None


def _overwrite_problem(output: Output) -> str | None:
    """Whether the path exists and was not made by a command of ours as the same kind of file."""
    path, named = output.path.expanduser(), str(output)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if output.kind in _REMADE and _made_by_us(path, output.kind):
        return None
    if output.is_folder:
        return (
            f"will not overwrite {named}: it holds files that this program did not write there. Choose another folder,"
            " or give --overwrite (overwrite=True), which replaces files of the same names and keeps the others"
        )
    return f"will not overwrite {named}: choose another name, or give --overwrite (overwrite=True)"


def _made_by_us(path: Path, kind: Kind) -> bool:
    if kind == "model folder":
        return (path / MANIFEST).is_file()
    if kind == "card":
        return True  # The marker in the card decides, see merge/export/model_card.py.
    return kind_of_file(path) == kind


def kind_of_file(path: Path) -> str:
    """The kind that a file written by us states; "" for any other file."""
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
    """The path with all links followed. It is equal for paths that name the same file."""
    real = os.path.realpath(os.path.expanduser(path))
    return Path(os.path.normcase(real) if os.name == "nt" else real)
