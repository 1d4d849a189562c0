"""Pictures of the concept's class for prior preservation. The base makes them if there are none."""

from __future__ import annotations

import operator
import re
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import jax
from PIL import Image
from tqdm.auto import tqdm

from blocklora_jax.command_line.compile_notice import compiling_is_announced
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.picture_grid import png_bytes
from blocklora_jax.io.printing import printable
from blocklora_jax.pipeline import StableDiffusion
from train.concept.picture_files import SUFFIXES
from train.concept.prompts import captions_for, class_caption
from train.concept.settings.concept_name import ConceptName

# Beside pictures that the base made: what they show. Folders of older versions have none.
RECORD = "class_pictures.json"
_OURS = re.compile(r"class_[0-9]{4,}\.png")


class Made(NamedTuple):
    """What pictures that the base made show. base: the beginning of its digest. size: of their sides, in pixels."""

    class_noun: str
    base: str
    size: int
    seed: int


def class_captions(concept: ConceptName, count: int) -> tuple[str, ...]:
    """Captions of `count` pictures of the class, such as "a photo of a man"."""
    return tuple(islice(cycle(class_caption(text, concept) for text in captions_for(concept)), count))


def make_class_pictures(
    folder: Path, count: int, concept: ConceptName, sd: StableDiffusion, size: int, seed: int
) -> None:
    """Have the base make `count` pictures of the class in `folder`, unless it holds other pictures.

    They are called class_0000.png and so on. Those that are there already are kept, so that an interrupted run makes
    only the rest. Picture i is a function of the seed and i. A folder keeps the seed that it was begun with.

    Raises: UserError for a folder that cannot be read or written, or with pictures of another class, base or size.
    """
    paths = [folder / f"class_{index:04d}.png" for index in range(count)]
    present, record = _pictures_in(folder), folder / RECORD
    made = Made(concept.class_noun, sd.digest[:16], size, seed)
    if record.exists():
        made = _read_made(record, made)
    missing = [index for index, path in enumerate(paths) if path not in present]
    if not missing or holds_others(folder):
        return
    if not present:
        write_json(record, made._asdict())
    captions, key = class_captions(concept, count), jax.random.key(made.seed)
    bar = tqdm(missing, desc=f"pictures of {concept.class_noun}", unit="picture", leave=False, dynamic_ncols=True)
    with compiling_is_announced("the pictures of the class"), bar as shown:
        for index in shown:
            [pixels] = sd.generate([captions[index]], latents=draw_latents(sd.models, key, [index], size, size))
            write_atomic(paths[index], png_bytes(Image.fromarray(pixels)))


def _read_made(record: Path, wanted: Made) -> Made:
    """What the pictures beside `record` show. Raises: UserError if it is not what is `wanted`; the seed may differ."""
    folder = f"--class-images {printable(str(record.parent))}"
    try:
        made = Made(**read_json(record))
        made = made._replace(seed=operator.index(made.seed))
    except (TypeError, UserError) as error:
        raise UserError(f"{folder}: {RECORD} does not say what its pictures show: give another folder") from error
    for name in ("class_noun", "base", "size"):
        if (before := getattr(made, name)) != (now := getattr(wanted, name)):
            raise UserError(
                f"{folder} holds pictures of the {name.replace('_', ' ')} {before!r}, not {now!r}: give another folder"
            )
    return made


def holds_others(folder: Path) -> bool:
    """Whether a folder holds pictures that `make_class_pictures` did not make.

    Raises: UserError for a folder that cannot be read.
    """
    return not all(_OURS.fullmatch(path.name) for path in _pictures_in(folder))


def _pictures_in(folder: Path) -> set[Path]:
    """The pictures in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return {path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."}
    except OSError as error:
        raise UserError(f"cannot use --class-images {printable(str(folder))}: {error.strerror}") from error
