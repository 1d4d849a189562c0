"""The settings of `python -m train.base`. Imports no JAX, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Train the pocket Stable Diffusion from nothing. The packaged weights' README says which settings made them."""

    out: Path = Path("runs/base")
    """Run folder: pictures, checkpoints, metrics, preview grids, and the model so far in `model/`."""
    start: str | None = None
    """Go on from the weights of this model ("pocket", or a folder): text encoder and autoencoder stay, U-Net and judge train."""
    resume: bool = False
    """Continue an interrupted run, or one that is to train longer (raise a stage's steps)."""
    seed: int = 0
    pictures: int = 40_000
    """How many pictures are drawn to learn from."""
    several: float = 0.35
    """Share of them with two or three subjects."""
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
    """0 trains no judge. A run that starts from a model goes on from its judge, or keeps it."""
    judge_batch: int = 64
    judge_learning_rate: float = 2e-3
    judge_individuals: int = 12_000
    """How many individuals the judge learns to tell apart, from four pictures of each."""
    save_every: int = 250
    preview_every: int = 500
    only_judge: bool = False
    """Train nothing but the judge, for the autoencoder of the model that --start names."""
    report: bool = False
    """Train nothing: measure --model, print how good it is, and write report.json into --out."""
    model: str = "pocket"
    """The model that --report measures: "pocket", or a folder that such a run wrote."""

    def __post_init__(self) -> None:
        if not 0 <= self.several <= 1:
            raise UserError(f"--several is a share, 0 to 1, not {self.several}")
        # 0: only at the end.
        check_options(self, {"save_every": BOUNDS["preview_every"]})
        if self.only_judge and self.report:
            raise UserError("--only-judge trains and --report measures: call them one after the other")
        if self.start and self.report:
            raise UserError("--report measures the model that --model names, and starts from none: leave out --start")
        if self.only_judge and not self.start:
            raise UserError("--only-judge needs a model whose autoencoder the judge is to know: add --start pocket")
