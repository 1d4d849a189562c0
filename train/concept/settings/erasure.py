"""Randomized Output Erasure: its form, its weight, and the random rows that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blocklora_jax.command_line.options import check_options
from train.concept.settings.visible_text import check_visible


@dataclass(frozen=True, kw_only=True)
class ErasureSettings:
    """Randomized Output Erasure, which suppresses the adapter in prompts about anything else."""

    erase: Literal["layer", "epsilon", "preserve", "none"] = "layer"
    """Form of the erasure. preserve is Differential Output Preservation: instead of random prompts, noise and negative
    tokens it uses the batch's own noised pictures, with captions that have the class noun without the token."""
    # The flag is --lambda, as in the paper, or --erase-weight. In YAML files the key is lambda.
    erase_weight: Annotated[float, tyro.conf.arg(name="lambda", aliases=("--erase-weight",))] = 5.0
    """Weight of the erasure loss. A high weight also weakens the concept itself."""
    random_batch: int | None = None
    """Number of random rows in a step. If not given: as many as --batch. With the form layer, and if all adapted layers
    read only text, four times as many, because they cost little."""
    random_styles: tuple[str, ...] = ()
    """Beginnings of random prompts ("a photo of"). If not given: a list that fits the model."""
    random_subjects: tuple[str, ...] = ()
    """Class nouns in random prompts. If not given: a list that fits the model."""
    random_scenes: tuple[str, ...] = ()
    """Endings of random prompts ("on a beach"). If not given: a list that fits the model."""
    pure_noise: float = 0.3
    """Share of the random rows whose latents are pure noise. It needs --erase epsilon, or --layers that read the
    picture: otherwise the U-Net does not run on the random rows."""
    other_images: Path | None = None
    """Folder of other pictures. Their noised latents are used as random latents, in addition to those of the concept's
    pictures. Their captions and masks are not read. It needs the same as --pure-noise."""

    class_images: Path | None = None
    """Folder of pictures of the class, for prior preservation. If it is empty or missing, the base makes --class-count
    pictures there. Each class needs a folder of its own. With the form preserve, the random rows are these pictures
    with captions of the class, not the batch's own pictures. With other forms they are used as --other-images are, and
    need the same."""
    class_count: int = 50
    """Number of pictures that the base makes in --class-images."""

    def __post_init__(self) -> None:
        check_options(self)
        check_visible(self, ("random_styles", "random_subjects", "random_scenes"))

    @property
    def preserves_class(self) -> bool:
        """Whether the random rows are the batch's own pictures under captions of the class."""
        return self.erase == "preserve"

    def skips_unet(self, layers: str) -> bool:
        """Whether the U-Net does not run on the random rows, because the adapted layers read only their text."""
        return self.erase == "layer" and set(layers.split("+")) <= {"cross_kv", "text_encoder"}

    def rows(self, batch: int, layers: str) -> int:
        """Number of random rows in a step. batch: its number of rows. layers: as for `--layers`."""
        if self.erase == "none" or self.erase_weight == 0:
            return 0
        if self.random_batch is not None:
            return self.random_batch
        return 4 * batch if self.skips_unet(layers) else batch
