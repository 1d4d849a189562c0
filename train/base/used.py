"""Whether a training may write into its run folder. This is checked before anything is drawn or copied there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from train.base.config import BaseConfig
from train.engine.checkpoint_folder import CheckpointFolder

# The stages of a new model. A run that starts from a model has only the last two, or the last one.
_FIRST, _LAST = ("clip", "vae"), ("unet", "judge")


def refuse_used(config: BaseConfig) -> None:
    """Raises UserError if --out is a model, or holds a run that `config` does not continue."""
    out = config.out
    if (out / "model_index.json").exists():
        raise UserError(f"{out} is a model: choose another --out")
    begun = [stage for stage in (*_FIRST, *_LAST) if CheckpointFolder(out / stage / "checkpoints").steps()]
    if not begun and not (out / "clock.json").exists():
        return
    if not config.resume:
        raise UserError(f"{out} already holds a run: continue it with --resume, or choose another --out")
    is_timed = (out / "clock.json").exists() or (out / "drawn.json").exists()
    if is_timed != (config.minutes is not None):
        raise UserError(f"{out} holds a run {'with' if is_timed else 'without'} --minutes: choose another --out")
    is_new = is_timed or any(stage in begun for stage in _FIRST)
    if is_new == bool(config.start):
        raise UserError(f"{out} holds a run {'without' if is_new else 'with'} --start: choose another --out")


def keep_to_start(folder: Path, out: Path) -> None:
    """Record the weights of the model in `folder`, from which the run in `out` starts.

    Raises UserError if the run began with other weights.
    """
    record, path = {}, out / "start.json"
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as stream:
            record[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    if path.exists() and read_json(path) != record:
        raise UserError(
            f"{out} began with other weights than those of {folder}: start from the same model, or choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
