"""The training pictures of the pocket model. They are drawn once and kept in the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.pocket.architecture import IMAGE_SIZE
from blocklora_jax.pocket.world import PictureSpec, sample_batch, sample_spec

# In the folder of a model: a list of `PictureSet`, one for each run. In a run folder: a list of the run's one set.
PICTURE_SETS = "pictures.json"


class Pictures(NamedTuple):
    """images: uint8 [n, 64, 64, 3], mapped from disk. captions: n strings."""

    images: np.ndarray
    captions: list[str]


class PictureSet(NamedTuple):
    """A set of training pictures: the first `pictures` of the endless series that `seed` gives.

    several: see `random_spec`.
    """

    seed: int
    pictures: int
    several: float

    def specs(self) -> Iterator[PictureSpec]:
        """Descriptions of the pictures, in order. Nothing is drawn."""
        return (sample_spec(self.seed, index, self.several)[0] for index in range(self.pictures))


def read_picture_sets(model: Path) -> list[PictureSet]:
    """The training pictures of the model in a folder, one set for each run. Empty if the folder does not list them.

    Raises: UserError for a malformed file.
    """
    path = model / PICTURE_SETS
    try:
        return [PictureSet(**fields) for fields in read_json(path)] if path.exists() else []
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{path} is no list of {', '.join(PictureSet._fields)}: {error}") from error


def draw_pictures(run_dir: Path, chosen: PictureSet, chunk: int = 2000, workers: int = 2) -> Pictures:
    """Draw the pictures into `run_dir`, or open those that an earlier call drew. An interrupted call is continued.

    Raises: UserError if the earlier call drew other pictures. Otherwise latents and labels of different pictures would
        be mixed up.
    """
    seed, count, several = chosen
    earlier = read_picture_sets(run_dir)
    if earlier not in ([], [chosen]):
        flags = " ".join(f"--{name} {value}" for name, value in earlier[0]._asdict().items())
        raise UserError(f"{run_dir} holds the pictures of {flags}: use the same settings, or choose another --out")
    write_json(run_dir / PICTURE_SETS, [chosen._asdict()])
    images_path, captions_path = run_dir / "pictures.npy", run_dir / "captions.json"
    captions = read_json(captions_path) if earlier and captions_path.exists() else []
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    if not images_path.exists() or np.load(images_path, mmap_mode="r").shape != shape:
        captions = []
        run_dir.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(images_path, "w+", np.uint8, shape).flush()
    images = np.lib.format.open_memmap(images_path, "r+")
    with tqdm(total=count, initial=len(captions), desc="draw", unit="picture", dynamic_ncols=True) as bar:
        while len(captions) < count:
            start, number = len(captions), min(chunk, count - len(captions))
            images[start : start + number], texts = sample_batch(seed, start, number, workers=workers, several=several)
            images.flush()
            captions += texts
            write_json(captions_path, captions)
            bar.update(number)
    return Pictures(images, captions)


def write_array(path: Path, array: np.ndarray) -> None:
    """Save `array` as .npy. It is written under another name, which is then renamed to `path`."""
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, array)
    temporary.replace(path)


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] to fp32 in -1..1."""
    return images.astype(np.float32) / 127.5 - 1.0


def batch_indices(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """`batch` picture numbers below `count` for one step, a function of (seed, step). Each epoch is a new shuffle."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // count
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(count) for epoch in np.unique(epochs).tolist()}
    return np.array(
        [orders[epoch][position % count] for epoch, position in zip(epochs.tolist(), positions, strict=True)]
    )
