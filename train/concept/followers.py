"""Who follows a run, as the settings and the place where it runs say."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.notebook.place import in_notebook
from train.concept.settings.run import RunSettings
from train.engine.followers.follower import Follower
from train.engine.followers.notebook import NotebookView
from train.engine.followers.tensorboard import TensorBoard
from train.engine.followers.weights_and_biases import WeightsAndBiases
from train.engine.log import all_metrics


def check_extras(settings: RunSettings) -> None:
    """Raises UserError if a package that follows the run is missing. Called before anything is written."""
    if settings.tensorboard and find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX: pip install 'blocklora_jax[tensorboard]'")
    if settings.wandb != "off" and find_spec("wandb") is None:
        raise UserError(f"--wandb {settings.wandb} needs wandb: pip install 'blocklora_jax[wandb]'")


def make_followers(settings: RunSettings, folder: Path, name: str, about: Mapping[str, Any]) -> list[Follower]:
    """The followers of the run in `folder`; in a notebook, its output is one.

    name: of the run. about: public settings, as JSON values.

    Raises: UserError if one cannot begin, see `WeightsAndBiases`.
    """
    followers: list[Follower] = []
    if settings.tensorboard:
        followers.append(TensorBoard(folder))
    if settings.wandb != "off":
        followers.append(WeightsAndBiases(folder, settings.wandb, name, about))
    if in_notebook():
        followers.append(NotebookView(all_metrics(folder / "metrics.jsonl")))
    return followers
