"""The packaged reference pictures: `python -m blocklora_jax.pocket.references --out DIR` draws them again."""

from __future__ import annotations

import json
from pathlib import Path

import tyro
from PIL import Image

from blocklora_jax.checks.bounds import check_number
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.pocket.concepts import CONCEPTS, Concept, concept_pictures

FOLDER = Path(__file__).parent / "references"
# Trained tokens of concepts of this world that are not in the examples. Negative tokens are drawn so that they resemble
# these. (`train.negative_tokens` makes such files.)
NEGATIVE_TOKENS = Path(__file__).parent / "negative_tokens.safetensors"
# The basis of the pocket model: eigenvectors of its text states for ordinary text (see `train.basis`).
BASIS = Path(__file__).parent / "basis.safetensors"


def basis_file(name: str | Path) -> Path:
    """The file of the basis that `--basis` names: the packaged one for "pocket"."""
    return BASIS if str(name) == "pocket" else Path(name)


def reference_folder(name: str) -> Path:
    """The folder of a packaged concept: 00.png to 05.png, a caption file for each, and concept.json."""
    if name not in CONCEPTS:
        raise UserError(f"there is no packaged concept {name!r}; there are {', '.join(CONCEPTS)}")
    return FOLDER / name


def write_concept(concept: Concept, folder: Path, n: int = 6, seed: int = 0) -> None:
    """Writes `n` references of a concept, their captions and its description into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, captions = concept_pictures(concept, n, seed)
    for i, (picture, words) in enumerate(zip(pictures, captions, strict=True)):
        Image.fromarray(picture).save(folder / f"{i:02d}.png", optimize=True)
        (folder / f"{i:02d}.txt").write_text(words + "\n")
    about = {"token": concept.token, "class_noun": concept.class_noun, "kind": concept.kind}
    (folder / "concept.json").write_text(json.dumps(about, indent=2) + "\n")


def write_references(out: Path = FOLDER, seed: int = 0) -> None:
    """Draw the reference pictures of every packaged concept.

    Args:
        out: folder to write to, with one folder for each concept.
        seed: seed of the pictures' settings.
    """
    check_number("seed", seed, shown="--seed")
    for name, concept in CONCEPTS.items():
        write_concept(concept, out / name, seed=seed)


if __name__ == "__main__":
    run(lambda: tyro.cli(write_references))
