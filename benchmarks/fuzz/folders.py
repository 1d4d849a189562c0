"""Damaged Diffusers folders, our own and those of other programs."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import is_finite, without_numbers
from benchmarks.fuzz.folder_fields import field_cases
from benchmarks.fuzz.folder_specimens import MANIFEST, Folder, read_folders, write_folders
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.raw_safetensors import FLOAT8_DTYPES, WRONG_DTYPES, RawFile
from benchmarks.fuzz.trial import Case, Trial, choose

NAME, SECONDS, MOST_MEMORY, QUICK = "folders", 30.0, 512 << 20, 1200
_FIELDS = 400  # number of cases for the fields of one folder's JSON files
_TIMES = 2  # number of cases for each damage to bytes in each kind of file


def prepare(folder: Path, seed: int) -> None:
    """Write the undamaged folders."""
    write_folders(folder)


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    cases: list[Case] = []
    for specimen in read_folders(folder):
        cases.append(Case(f"{specimen.name}: nothing changed", functools.partial(_sound, specimen)))
        has_fields = specimen.name in ("ours", "sd1", "sdxl") or bool(specimen.files(".index.json"))
        cases += choose(field_cases(specimen), _FIELDS, seed) if has_fields else []
        for name in (*specimen.files(".json"), *specimen.files(".txt"), *specimen.files(".safetensors")):
            for words in (*SAME_LENGTH, *OTHER_LENGTH):
                case = Case(f"{specimen.name}: {name}: {words}", functools.partial(_bytes, specimen, name, words))
                cases += [case] * (_TIMES if name.endswith(".safetensors") else 1)
        cases += _tensor_cases(specimen)
        if specimen.name == "sd1":
            cases += _place_cases(specimen)
    return cases


def _sound(folder: Folder, rng: np.random.Generator, scratch: Path) -> Trial:
    return folder.trial_of(folder.copy(scratch), (folder.facts,), must_load=True)


def _bytes(folder: Folder, name: str, words: str, rng: np.random.Generator, scratch: Path) -> Trial:
    data = (folder.path / name).read_bytes()
    # Without a digest, a wrong number cannot be noticed. Neither can a text of another length.
    may_differ = not folder.ours and (words in SAME_LENGTH or not name.endswith(".safetensors"))
    apart = functools.partial(_is_alike, folder.facts) if may_differ else lambda facts: False
    return folder.trial(scratch, name, damage(words, data, rng), apart=apart)


def _is_alike(expected: Any, facts: Any) -> bool:
    return is_finite(facts) and without_numbers(facts["params"]) == without_numbers(expected["params"])


def _tensor_cases(folder: Folder) -> list[Case]:
    """Cases with weights of another component, of a wrong type, not finite, or incomplete."""
    cases = []
    for name in folder.files(".safetensors"):
        for words, change in _CHANGES.items():
            cases.append(Case(f"{folder.name}: {name}: {words}", functools.partial(_change, folder, name, change)))
    return cases


def _change(
    folder: Folder, name: str, change: Callable[[RawFile, int], RawFile], rng: np.random.Generator, scratch: Path
) -> Trial:
    raw = RawFile.read((folder.path / name).read_bytes())
    keep = {} if folder.ours else {"format": "pt"}
    index = int(rng.choice([i for i, tensor in enumerate(raw.tensors) if tensor.dtype == "F32" and tensor.data]))
    trial = folder.trial(scratch, name, change(RawFile(raw.tensors, keep or raw.metadata), index).pack())
    return Trial(call=trial.call, accept=())


_CHANGES: dict[str, Callable[[RawFile, int], RawFile]] = {
    "a tensor missing": lambda raw, i: RawFile(raw.tensors[:i] + raw.tensors[i + 1 :], raw.metadata),
    "no tensors": lambda raw, i: RawFile([], raw.metadata),
    "one NaN": lambda raw, i: raw.replaced(i, lambda t: t.filled(np.nan, 3)),
    "one infinity": lambda raw, i: raw.replaced(i, lambda t: t.filled(np.inf, 3)),
    "1e300 in fp64": lambda raw, i: raw.replaced(i, lambda t: t.cast("F64").filled(1e300, 3)),
    "flat": lambda raw, i: raw.replaced(i, lambda t: type(t)(t.name, t.dtype, [t.array.size, 1, 1], t.data)),
    "10^12": lambda raw, i: raw.replaced(i, lambda t: type(t)(t.name, t.dtype, [10**12], t.data)),
    "70 axes": lambda raw, i: raw.replaced(i, lambda t: type(t)(t.name, t.dtype, [*t.shape, *[1] * 68], t.data)),
    "an escape sequence": lambda raw, i: raw.replaced(i, lambda t: type(t)("\x1b[31mred", t.dtype, t.shape, t.data)),
    **{
        f"{d} in one": functools.partial(lambda d, raw, i: raw.replaced(i, lambda t: t.cast(d)), d)
        for d in (*WRONG_DTYPES, *FLOAT8_DTYPES)
    },
}


def _place_cases(folder: Folder) -> list[Case]:
    """Cases with something else in the place of a file or the folder, and with missing or exchanged files."""
    weights = "unet/diffusion_pytorch_model.safetensors"
    cases = []
    for name in (weights, "unet/config.json", "model_index.json", "tokenizer/vocab.json", "tokenizer/merges.txt"):
        for words, make in NOT_FILES.items():
            cases.append(Case(f"{words} as {name}", functools.partial(_place, folder, name, make)))
    cases += [
        Case(f"{words} as the folder", functools.partial(_as_folder, folder, make)) for words, make in NOT_FILES.items()
    ]
    cases += [Case(f"no {name}", functools.partial(_without, folder, name)) for name in folder.files("")]
    replacements = (
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "tokenizer/vocab.json",
    )
    for one, other in zip((weights, weights, "vae/config.json", "unet/config.json"), replacements, strict=True):
        cases.append(Case(f"{other} as {one}", functools.partial(_exchanged, folder, one, other)))
    return [*cases, Case("a folder of another program", functools.partial(_manifests, folder))]


def _place(folder: Folder, name: str, make: Callable[[Path], Path], rng: np.random.Generator, scratch: Path) -> Trial:
    target = folder.copy(scratch, name) / name
    make(target)  # If it makes a file of another name, `name` is missing.
    # Tokenizers can read their words from one of several files.
    accept = (folder.facts,) if name.startswith("tokenizer") else ()
    return folder.trial_of(scratch / "model", accept)


def _as_folder(folder: Folder, make: Callable[[Path], Path], rng: np.random.Generator, scratch: Path) -> Trial:
    return folder.trial_of(make(scratch / "model"), ())


def _without(folder: Folder, name: str, rng: np.random.Generator, scratch: Path) -> Trial:
    return folder.trial_of(folder.copy(scratch, name), (folder.facts,))


def _exchanged(folder: Folder, one: str, other: str, rng: np.random.Generator, scratch: Path) -> Trial:
    target = folder.copy(scratch, one)
    shutil.copy(folder.path / other, target / one)
    return folder.trial_of(target, ())


def _manifests(folder: Folder, rng: np.random.Generator, scratch: Path) -> Trial:
    """A file with the name of our manifest but other content is refused, or has no effect."""
    target = folder.copy(scratch)
    (target / MANIFEST).write_text(json.dumps({"name": "someone else's"}))
    return folder.trial_of(target, (folder.facts,))
