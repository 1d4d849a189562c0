"""Checkpoints of a training state, through orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from blocklora_jax.errors import UserError


class Checkpoints:
    """The newest states of one run, in `<folder>/<step>`; writing is atomic (orbax writes beside and renames)."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._manager = ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=keep))

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Save `state`, a pytree of arrays, as the state before step `step`; returns when it is on disk."""
        if step in self._manager.all_steps():
            return
        try:
            self._manager.save(step, args=ocp.args.StandardSave(_without_empty(state)))
            self._manager.wait_until_finished()
        except OSError as error:
            raise UserError(f"cannot save a checkpoint of step {step}: {error.strerror or error}") from error

    def restore(self, like: Any) -> tuple[int, Any]:
        """The newest (step, state), with the structure, dtypes and shardings of `like`.

        Raises UserError if the saved state does not fit, as when the configuration changed between two runs.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(f"there is no checkpoint in {self._manager.directory}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_empty(like))
        try:
            saved = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint of step {step} in {self._manager.directory} does not fit this configuration; "
                "resume with the settings it was started with, or choose another --out"
            ) from error
        return step, jax.tree.map(lambda x, y: y if x is None else x, saved, like, is_leaf=lambda x: x is None)

    def close(self) -> None:
        """Wait for writes and release the folder."""
        self._manager.close()


def _without_empty(state: Any) -> Any:
    """`state` with None for arrays without entries, which orbax does not save: the embeddings of no tokens."""
    return jax.tree.map(lambda x: x if x.size else None, state)
