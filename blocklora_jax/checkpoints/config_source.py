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
from blocklora_jax.layouts.families.table import FAMILIES

# {name: hub id} of the published configs.
PUBLISHED = {config.name: config.repository for family in FAMILIES.values() for config in family.configs}
# These names say only which family a model is of.
_BROAD = {family.configs[0].name for family in FAMILIES.values() if len(family.configs) == 1}
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
        family: a key of `FAMILIES`, as its tensors say.
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
        kind, other = FAMILIES[family].title, FAMILIES[described.family].title
        raise UserError(f"{path} is {kind}, but its config {name} is of {other}; {_HINT}")
    if config is not None and name not in _BROAD:
        _check_agreement(path, name, stated, described.scheduler)
    return replace(described, scheduler=stated.obeyed(described.scheduler))


def _published(path: Path, family: str, stated: Stated, metadata: Mapping[str, str]) -> str:
    if metadata.get(CONFIG) == POCKET:
        return POCKET
    first, *others = FAMILIES[family].configs
    if not others:
        return first.name
    if stated.prediction is None:
        choices = ", ".join(f"{config.name!r} if {config.when}" for config in others)
        raise UserError(
            f"{path} is {FAMILIES[family].title}, which the tensors do not tell apart: give config={first.name!r}"
            f" (--model-config {first.name}) if {first.when}, {choices}, or a folder of the model"
        )
    return next((each.name for each in (first, *others) if each.prediction == stated.prediction), others[-1].name)


def _check_agreement(path: Path, name: str, stated: Stated, scheduler: Mapping[str, object]) -> None:
    """Raise UserError where the header and the config that was named disagree: either may be a leftover."""
    if differences := stated.differences(scheduler):
        raise UserError(
            f"the header of {path} says that its {', '.join(differences)} as in the config {name}, which was named. If"
            " the file is right, name a config whose scheduler/scheduler_config.json says the same; if the config is"
            " right, save the file again without the header:"
            " safetensors.numpy.save_file(safetensors.numpy.load_file(path), new_path)"
        )
