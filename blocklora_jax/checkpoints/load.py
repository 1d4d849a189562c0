"""Loads a whole model from any kind of source."""

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
        config: only for a single file: the source of its configs and tokenizer; see `load_single_file`.
        variant, revision: only for folders and hub ids; see `load_folder`.
        dtype: type of the parameters.
        verify: whether digests in the files must match.

    Raises:
        UserError: see `load_single_file` and `load_folder`; or an option does not fit the kind of source.
    """
    if not is_single_file(name):
        if config is not None:
            raise UserError(
                f"config={os.fspath(config)!r} is only for single files; {os.fspath(name)!r} has its own configs"
            )
        return load_folder(name, variant=variant, revision=revision, dtype=dtype, verify=verify)
    if variant is not None or revision is not None:
        raise UserError(f"variant and revision are for folders and hub ids; {os.fspath(name)} is a single file")
    return load_single_file(name, config=config, dtype=dtype, verify=verify)
