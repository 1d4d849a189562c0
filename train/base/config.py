"""The settings of `python -m train.base`. This module does not import JAX, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Train the pocket Stable Diffusion from scratch. The README of the packaged weights has their settings."""

    out: Path = Path("runs/base")
    """Run folder: pictures, checkpoints, metrics, preview grids, and the current model in `model/`."""
    start: str | None = None
    """Continue from the weights of this model: "pocket", or a folder. The text encoder and the autoencoder stay as they
    are; the U-Net and the judge train."""
    resume: bool = False
    """Continue an interrupted run, or train a finished one for longer (raise the steps of a stage)."""
    seed: int = 0
    pictures: int = 40_000
    """Number of training pictures."""
    several: float = 0.35
    """Share of the pictures that show two or three subjects."""
    clip_steps: int = 400
    clip_batch: int = 128
    clip_learning_rate: float = 5e-4
    vae_steps: int = 2400
    vae_batch: int = 8
    vae_learning_rate: float = 1e-3
    unet_steps: int = 9600
    unet_batch: int = 24
    unet_learning_rate: float = 6e-4
    judge_steps: int = 4800
    """With 0 no judge is trained. A run that starts from a model continues to train that model's judge, or with 0 keeps
    it."""
    judge_batch: int = 64
    judge_learning_rate: float = 2e-3
    judge_individuals: int = 12_000
    """Number of individuals that the judge learns to tell apart, from four pictures of each."""
    minutes: float | None = None
    """Train everything within this time, drawing included, on an accelerator: the learning rates fall to the end of it,
    whatever number of steps that is. Then --pictures is the largest number of pictures, the steps are not read, and the
    judge stays the packaged one, so that reports can be compared. Batches and learning rates have larger defaults."""
    gpu: bool = False
    """Train on an NVIDIA GPU, or say that there is none."""
    unet_channels: tuple[int, ...] | None = None
    """Channels of the U-Net's three levels; if not given, those of the packaged model."""
    vae_channels: tuple[int, ...] | None = None
    """Channels of the autoencoder's three levels; if not given, those of the packaged model."""
    save_every: int = 250
    preview_every: int = 500
    only_judge: bool = False
    """Train only the judge, for the autoencoder of the model that --start names."""
    report: bool = False
    """Train nothing: measure --model, print how good it is, and write report.json into --out."""
    model: str = "pocket"
    """The model that --report measures: "pocket", or a folder that such a run wrote."""

    def __post_init__(self) -> None:
        if not 0 <= self.several <= 1:
            raise UserError(f"--several must be a share from 0 to 1, not {self.several}")
        # --save-every 0 saves only at the end.
        check_options(self, {"save_every": BOUNDS["preview_every"]})
        if self.only_judge and self.report:
            raise UserError("--only-judge and --report cannot be combined: call them one after the other")
        if self.start and self.report:
            raise UserError("--report measures the model that --model names and trains nothing: leave out --start")
        if self.only_judge and not self.start:
            raise UserError("--only-judge trains the judge for the autoencoder of a model: add --start pocket")
        if self.minutes is not None and (self.start or self.only_judge or self.report):
            raise UserError("--minutes trains a new model: leave out --start, --only-judge and --report")
        if self.start and (self.unet_channels or self.vae_channels):
            raise UserError("--start continues from a model, whose channels are given: leave out the channels")


# What `--minutes` uses instead of the defaults above, which are for two cores.
TIMED_DEFAULTS: dict[str, Any] = {
    "pictures": 400_000, "clip_batch": 1024, "clip_learning_rate": 1e-3, "vae_batch": 256, "vae_learning_rate": 1e-3,
    "unet_batch": 512, "unet_learning_rate": 1e-3,
}  # fmt: skip


def timed_config(minutes: float, **settings: Any) -> BaseConfig:
    """The settings of a training within `minutes`; `settings` override its defaults."""
    return BaseConfig(minutes=minutes, **TIMED_DEFAULTS | settings)
