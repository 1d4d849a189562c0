"""Prepares the data of published protocols for the bench: `python -m benchmarks.modular.published PROTOCOL`.

Reads the data as its authors give it, and writes the folder of concepts that `python -m benchmarks.modular --concepts`
takes: pictures, captions, masks, the class, and the protocol's own prompts. Prints the command that measures them.

custom_concept_101: --data is `customconcept101` of github.com/adobe-research/custom-diffusion, with the unpacked
    `benchmark_dataset` in it, which its README says where to find.
mix_of_show: --data is a checkout of github.com/TencentARC/Mix-of-Show, with the unpacked pictures in `datasets/data`,
    as its docs/Dataset.md says.

Nothing is downloaded. Check that the licences of the data allow your use.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from tyro.conf import Positional

from benchmarks.modular.worlds.folder import write_prompts
from blocklora_jax.checks.names import plain_name
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import temporary_beside
from blocklora_jax.io.json_text import read_json, read_text_bytes
from train.concept.picture_files import find_pictures

Protocol = Literal["custom_concept_101", "mix_of_show"]
# What is measured, as far as the bench can: numbers of merged concepts, pictures of each concept, methods.
SETTINGS: dict[Protocol, str] = {
    "custom_concept_101": "--counts 1 5 15 --prompts 20 --methods token token_fit sum fusion",
    "mix_of_show": "--counts 1 5 14 --prompts 20 --methods token token_fit sum fusion sum_attention",
}
# The authors' models. Chilloutmix is not at one place: a folder, or an id on the hub.
MODELS: dict[Protocol, str] = {"custom_concept_101": "CompVis/stable-diffusion-v1-4", "mix_of_show": "CHILLOUTMIX"}
# Mix-of-Show's files do not say what a concept is: (kind, class noun, file of prompts), by the name of its settings.
_CHARACTER, _PET = "characters/test_character.txt", "objects/test_pet.txt"
MIX_OF_SHOW = {
    "batman": ("person", "man", _CHARACTER), "hermione": ("person", "woman", _CHARACTER),
    "ironman": ("person", "man", _CHARACTER), "potter": ("person", "man", _CHARACTER),
    "thanos": ("person", "man", _CHARACTER), "hina_amano": ("person", "girl", _CHARACTER),
    "mitsuha_miyamizu": ("person", "girl", _CHARACTER), "miyazono_kaori": ("person", "girl", _CHARACTER),
    "son_goku": ("person", "man", _CHARACTER), "tezuka_kunimitsu": ("person", "man", _CHARACTER),
    "catA": ("object", "cat", _PET), "dogA": ("object", "dog", _PET), "dogB": ("object", "dog", _PET),
    "chair": ("object", "chair", "objects/test_chair.txt"), "table": ("object", "table", "objects/test_table.txt"),
    "vase": ("object", "vase", "objects/test_vase.txt"), "pyramid": ("scene", "pyramid", "scenes/test_scene.txt"),
    "wululu": ("scene", "rock", "scenes/test_scene.txt"),
    # For these there are no prompts of the benchmark: they get those of sentences.yaml.
    "B2": ("object", "airplane", ""), "f35": ("object", "airplane", ""), "carA": ("object", "car", ""),
    "porsche_356a": ("object", "car", ""), "sailboat": ("object", "boat", ""), "yacht": ("object", "boat", ""),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prepare the data of a published protocol."""

    protocol: Positional[Protocol]
    """Whose data it is."""
    data: Path
    """The authors' folder."""
    out: Path
    """The folder of concepts to write."""
    concepts: tuple[str, ...] = ()
    """Only these concepts, by their names in the data."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Concept:
    """What the data say of a concept. prompts: with {} for it. captions, masks: other folders of these."""

    name: str
    pictures: Path
    kind: str
    class_noun: str
    prompts: Sequence[str] = ()
    captions: Path | None = None
    masks: Path | None = None


def concepts_of(protocol: Protocol, data: Path) -> Iterator[Concept]:
    """All concepts of the data, whether their pictures are there or not.

    Raises: UserError for a file that is missing or malformed.
    """
    return {"custom_concept_101": _custom_concept_101, "mix_of_show": _mix_of_show}[protocol](data)


def write_concepts(concepts: Sequence[Concept], out: Path) -> None:
    """Write the folder of concepts, whole or not at all.

    Raises: UserError for a folder that exists, one without pictures, and two concepts of one name.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as folder:
        for concept in concepts:
            own = folder / plain_name(concept.name.lower(), "the concept")
            if own.exists():
                raise UserError(f"two concepts are named {own.name!r}: choose one with --concepts")
            own.mkdir(parents=True)
            _write(concept, own)
        folder.rename(out)


def _write(concept: Concept, folder: Path) -> None:
    call = f"<{folder.name}> {concept.class_noun}"
    for picture in (found.path for found in find_pictures(concept.pictures, companions=False)):
        shutil.copyfile(picture, folder / picture.name)
        caption, mask = (
            within / f"{picture.stem}{ending}" if within else None
            for within, ending in ((concept.captions, ".txt"), (concept.masks, ".png"))
        )
        if caption is not None and caption.is_file():
            first = _decoded(caption).partition("\n")[0]
            (folder / f"{picture.stem}.txt").write_text(" ".join(first.replace("<TOK>", call).split()) + "\n")
        if mask is not None and mask.is_file():
            shutil.copyfile(mask, folder / f"{picture.stem}.mask.png")
    settings = {"class_noun": concept.class_noun, "kind": concept.kind}
    (folder / "concept.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    if concept.prompts:
        write_prompts(folder, concept.prompts)


def _custom_concept_101(data: Path) -> Iterator[Concept]:
    """101 concepts, each with a class, and a list of prompts that it shares with its like."""
    path = data / "dataset.json"
    for entry in _entries(path):
        name, noun, prompts = (
            _text(path, entry, key) for key in ("instance_data_dir", "class_prompt", "prompt_filename")
        )
        pictures = _within(data, name)
        kind = pictures.name.partition("_")[0]
        kind = kind if kind in ("person", "scene") else "object"
        yield Concept(pictures.name, pictures, kind, noun, _lines(_within(data, prompts), "{}"))


def _mix_of_show(data: Path) -> Iterator[Concept]:
    """Concepts with captions, masks and, for most, twenty prompts in four groups."""
    files = sorted((data / "datasets" / "data_cfgs" / "MixofShow" / "single-concept").rglob("*.json"))
    if not files:
        raise UserError(f"{data} is no checkout of Mix-of-Show: it has no datasets/data_cfgs/MixofShow/single-concept")
    for path in files:
        # What is not in the table has no class.
        kind, noun, prompts = MIX_OF_SHOW.get(path.stem, ("object", "", ""))
        for entry in _entries(path):
            folders = {
                key: _within(data, _text(path, entry, f"{key}_dir")) if f"{key}_dir" in entry else None
                for key in ("instance_data", "caption", "mask")
            }
            if folders["instance_data"] is None:
                raise UserError(f"{path} names no 'instance_data_dir'")
            known = data / "datasets" / "benchmark_prompts" / "single-concept" / prompts
            yield Concept(
                path.stem, folders["instance_data"], kind, noun, _lines(known, "<TOK>") if prompts else (),
                folders["caption"], folders["mask"],
            )  # fmt: skip


def _entries(path: Path) -> list[Any]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} must hold a list of concepts")
    return entries


def _decoded(path: Path) -> str:
    try:
        return read_text_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as such") from error


def _text(path: Path, entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: an entry has no {key!r}")
    return value


def _within(data: Path, name: str) -> Path:
    """A path that the data name. Raises: UserError for one outside of them."""
    path = data / name
    if not path.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{data} names {name!r}, which is outside of it")
    return path


def _lines(path: Path, place: str) -> list[str]:
    """The prompts of a file, with {} where the concept is called."""
    if not path.is_file():
        raise UserError(f"{path} is not there: it lists the prompts of a concept")
    lines = [" ".join(line.replace(place, "{}").split()) for line in _decoded(path).splitlines()]
    return [line for line in lines if line]


def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    options = read_options(Options, args, description=__doc__)
    concepts = list(concepts_of(options.protocol, options.data))
    if unknown := sorted(set(options.concepts) - {concept.name for concept in concepts}):
        raise UserError(f"--concepts {unknown[0]} is not among: {', '.join(sorted(c.name for c in concepts))}")
    wanted = [concept for concept in concepts if not options.concepts or concept.name in options.concepts]
    here = [concept for concept in wanted if concept.pictures.is_dir()]
    if absent := [concept.name for concept in wanted if concept not in here]:
        if options.concepts or not here:
            raise UserError(f"there are no pictures of {', '.join(absent[:9])}: see --help for what --data must hold")
        print(f"{len(absent)} concepts have no pictures, and are left out: {', '.join(absent)}")
    if unclear := [concept.name for concept in here if not concept.class_noun]:
        raise UserError(f"the data do not say what {unclear[0]} is: leave it out, by naming the others with --concepts")
    write_concepts(here, options.out)
    print(f"wrote {len(here)} concepts to {options.out}. Measure them with:")
    print(
        f"python -m benchmarks.modular --model {MODELS[options.protocol]} --concepts {options.out}"
        f" --config configs/sd15.yaml {SETTINGS[options.protocol]}"
    )


if __name__ == "__main__":
    run(main)
