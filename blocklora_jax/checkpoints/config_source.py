"""Finds configs and tokenizers for single files, which hold neither."""

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
# Names that state only a model's family.
_BROAD = {family.configs[0].name for family in FAMILIES.values() if len(family.configs) == 1}
_HINT = (
    "a single file holds no configs and no tokenizer: name their source with config=… (--model-config … of"
    " `python -m merge FILES`; for other commands, save a Diffusers folder with it first), which is a"
    " hub id or a Diffusers folder of the same kind of model (its weights are not needed)"
)


def find_config(
    path: Path,
    family: str,
    config: str | os.PathLike[str] | None,
    keys: Collection[str],
    metadata: Mapping[str, str],
) -> Checkpoint:
    """A model without parameters that has the configs and tokenizers for the single file at `path`.

    The scheduler is that of the config. What the file states about its prediction type and noise takes precedence.

    Args:
        path: the file, for messages.
        family: a key of `FAMILIES`, recognised from the file's tensors.
        config: a folder, a hub id, or a name in `PUBLISHED`. None: the bundled or published model of the file's kind.
        keys, metadata: all keys of the file, and the texts of its header.

    Raises: UserError if there is no config, if it is for another family, or if it was named and the file's header
        contradicts it.
    """
    stated = read_stated(path, keys, metadata)
    name = os.fspath(config) if config is not None else _published(path, family, stated, metadata)
    try:
        described = read_description(find_source(PUBLISHED.get(name, name)))
    except UserError as error:
        raise UserError(f"{path}: {_HINT}. ({error})") from error
    if described.family != family:
        kind, other = FAMILIES[family].title, FAMILIES[described.family].title
        raise UserError(f"{path} is {kind}, but its config {name} is for {other}; {_HINT}")
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
            f"{path} is {FAMILIES[family].title}, and its tensors do not show which of its models: give"
            f" config={first.name!r} (--model-config {first.name}) if {first.when}, {choices}, or a folder of the model"
        )
    names = (published.name for published in (first, *others) if published.prediction == stated.prediction)
    return next(names, others[-1].name)


def _check_agreement(path: Path, name: str, stated: Stated, scheduler: Mapping[str, object]) -> None:
    """Raise UserError if the header and the named config disagree: either of them may belong to another model."""
    if differences := stated.differences(scheduler):
        raise UserError(
            f"the header of {path} says that its {', '.join(differences)} as in the named config {name}. If the file is"
            " right, name a config whose scheduler/scheduler_config.json says the same; if the config is"
            " right, save the file again without the header:"
            " safetensors.numpy.save_file(safetensors.numpy.load_file(path), new_path)"
        )
