"""Pictures of the concept's class for prior preservation. The base makes them if there are none."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import jax
from PIL import Image
from tqdm.auto import tqdm

from blocklora_jax.command_line.compile_notice import compiling_is_announced
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.picture_grid import png_bytes
from blocklora_jax.io.printing import printable
from blocklora_jax.pipeline import StableDiffusion
from train.concept.picture_files import SUFFIXES
from train.concept.prompts import captions_for, class_caption
from train.concept.settings.concept_name import ConceptName


def class_captions(concept: ConceptName, count: int) -> tuple[str, ...]:
    """Captions of `count` pictures of the class, such as "a photo of a man"."""
    return tuple(islice(cycle(class_caption(text, concept) for text in captions_for(concept)), count))


def make_class_pictures(
    folder: Path, count: int, concept: ConceptName, sd: StableDiffusion, size: int, seed: int
) -> None:
    """Have the base make `count` pictures of the class in `folder`, unless it holds other pictures.

    They are called class_0000.png and so on. Those that are there already are kept, so that an interrupted run makes
    only the rest. Picture i is a function of the seed and i.

    Raises: UserError for a folder that cannot be read or written.
    """
    paths = [folder / f"class_{index:04d}.png" for index in range(count)]
    present = _pictures_in(folder)
    missing = [index for index, path in enumerate(paths) if path not in present]
    if not missing or any(not path.name.startswith("class_") for path in present):
        return
    captions, key = class_captions(concept, count), jax.random.key(seed)
    bar = tqdm(missing, desc=f"pictures of {concept.class_noun}", unit="picture", leave=False, dynamic_ncols=True)
    with compiling_is_announced("the pictures of the class"), bar as shown:
        for index in shown:
            [pixels] = sd.generate([captions[index]], latents=draw_latents(sd.models, key, [index], size, size))
            write_atomic(paths[index], png_bytes(Image.fromarray(pixels)))


def _pictures_in(folder: Path) -> set[Path]:
    """The pictures in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return {path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."}
    except OSError as error:
        raise UserError(f"cannot use --class-images {printable(str(folder))}: {error.strerror}") from error
