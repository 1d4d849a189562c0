"""Whole models from whatever they are kept in."""

from __future__ import annotations

import os

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import load_folder
from blocklora_jax.checkpoints.recognise import is_single_file
from blocklora_jax.checkpoints.single_file import load_single_file
from blocklora_jax.errors import UserError


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    verify: bool = True,
) -> Checkpoint:
    """Read a model: "pocket", a Diffusers folder, a hub id, or a single original `.safetensors` file.

    Args:
        name: which model.
        config: for a single file, whose configs and tokenizer it has: see `load_single_file`.
        variant, revision: for folders and hub ids: see `load_folder`.
        dtype: type of the parameters.
        verify: whether digests of files that carry them must hold.

    Raises:
        UserError: see `load_single_file` and `load_folder`; an option that does not go with the kind of model.
    """
    if not is_single_file(name):
        if config is not None:
            raise UserError(
                f"config={os.fspath(config)!r} is for single files; {os.fspath(name)!r} has configs of its own"
            )
        return load_folder(name, variant=variant, revision=revision, dtype=dtype, verify=verify)
    if variant is not None or revision is not None:
        raise UserError(f"variant and revision are for folders and hub ids; {os.fspath(name)} is a single file")
    return load_single_file(name, config=config, dtype=dtype, verify=verify)
