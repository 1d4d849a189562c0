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
    """Form of the erasure. preserve is Differential Output Preservation: it uses no random prompts, noise or negative
    tokens, but the batch's own noised pictures, captioned by the class noun without the token."""
    # The flag is --lambda, as in the paper; --erase-weight is taken too. In YAML files: lambda.
    erase_weight: Annotated[float, tyro.conf.arg(name="lambda", aliases=("--erase-weight",))] = 1.0
    """Weight of the erasure loss. In a block of few features a high weight weakens the concept itself too; without
    blocks 10 is better."""
    random_batch: int | None = None
    """Random rows a step. If not given: as many as `batch`, or four times that where they cost little, which is with
    the form layer and layers that read text."""
    random_styles: tuple[str, ...] = ()
    """How random prompts begin ("a photo of"). A list that fits the model if not given."""
    random_subjects: tuple[str, ...] = ()
    """The class nouns of random prompts."""
    random_scenes: tuple[str, ...] = ()
    """How random prompts end ("on a beach")."""
    pure_noise: float = 0.3
    """Share of the random rows whose latents are pure noise."""
    other_images: Path | None = None
    """Folder of other pictures: their noised latents are random latents, beside those of the references.
    Their captions and masks are not read."""

    def __post_init__(self) -> None:
        check_options(self)
        check_visible(self, ("random_styles", "random_subjects", "random_scenes"))

    @property
    def preserves_class(self) -> bool:
        """Whether the random rows are the batch's own pictures under captions of the class."""
        return self.erase == "preserve"

    def rows(self, batch: int, layers: str) -> int:
        """Random rows a step, for a batch of so many rows and the adapted layers as `--layers` names them."""
        if self.erase == "none" or self.erase_weight == 0:
            return 0
        if self.random_batch is not None:
            return self.random_batch
        only_text = self.erase == "layer" and set(layers.split("+")) <= {"cross_kv", "text_encoder"}
        return 4 * batch if only_text else batch
