"""Checkpoints of a training state, written by orbax. Each has digests of its content."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from blocklora_jax.errors import UserError
from train.engine.background_save import PATIENCE, BackgroundSave, own_copy
from train.engine.checkpoint_folder import CheckpointFolder
from train.engine.checkpoint_seal import DamagedError, SealedArgs, SealingHandler, flush, read_seal
from train.engine.orbax_noise import quiet_orbax
from train.engine.platform import all_hosts, is_first_host
from train.engine.state_digest import as_numbers, describe_state, layout_digest, tensors_digest

# An entry in orbax's metadata. It says that the checkpoint has a seal.
_SEALED = {"sealed": True}
_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")


class MisfitError(Exception):
    """A checkpoint is undamaged, but its state has other leaves, dtypes or shapes."""


class Checkpoints:
    """The newest states of one run, in `<folder>/<step>`. Writing is atomic: orbax renames a finished folder.

    As a context, it waits at its end for what is still being written.
    """

    def __init__(self, folder: Path, keep: int = 2, in_background: bool = False) -> None:
        """in_background: `save` returns when the state is copied; `wait`, or the next `save`, tells of failures."""
        if "\0" in str(folder):
            raise UserError(f"{str(folder)!r} cannot be the name of a folder")
        self._folder, self._keep, self._is_tidy = CheckpointFolder(folder), keep, False
        # Hosts of a pod save together, and must notice at once if one of them fails.
        self._in_background = in_background and jax.process_count() == 1
        self._pending: tuple[int, BackgroundSave] | None = None
        self._quiet = ExitStack()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except UserError as failed:
            if error is None:
                raise
            warnings.warn(str(failed), stacklevel=2)

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return next(iter(self._folder.steps()), None)

    def save(self, step: int, state: Any) -> None:
        """Save `state`, a pytree of arrays, as the state before step `step`; returns when it is on disk.

        In the background, it returns when the state is copied. One state is written at a time.

        Raises UserError if it cannot be written, or if the one before could not. Earlier checkpoints stay as they are.
        """
        self.wait()
        if step in self._folder.steps():
            return
        state = _without_empty(state)
        handler = SealingHandler(describe_state(step, state))
        if self._in_background:
            self._begin(step, handler, own_copy(state))
            return
        with self._failures_explained(step):
            self._make_room(step)
            args = SealedArgs(default=ocp.args.StandardSave(state))
            ocp.Checkpointer(handler).save(self._folder.of(step), args=args, custom_metadata=_SEALED)
        self._settle()

    def _begin(self, step: int, handler: SealingHandler, state: Any) -> None:
        # The threads of orbax are silent until `wait`.
        self._quiet.enter_context(quiet_orbax())
        try:
            with self._failures_explained(step):
                self._make_room(step)
                args = SealedArgs(default=ocp.args.StandardSave(state))
                self._pending = step, BackgroundSave(handler, self._folder.of(step), args, _SEALED)
        finally:
            if self._pending is None:
                self._quiet.close()

    def wait(self, patience: float = PATIENCE) -> None:
        """Return when the state that is being written is on disk; wait `patience` seconds at most.

        Raises: UserError if it cannot be written, or is not written then.
        """
        if self._pending is None:
            return
        step, saving = self._pending
        self._pending = None
        try:
            with self._failures_explained(step):
                saving.wait(patience)
        finally:
            self._quiet.close()
        self._settle()

    @contextmanager
    def _failures_explained(self, step: int) -> Iterator[None]:
        """Raises one UserError for whatever goes wrong in the block, and removes what is half-written."""
        try:
            with quiet_orbax():
                yield
        except Exception as error:  # orbax and tensorstore raise many kinds.
            if is_first_host():
                self._folder.remove_leftovers()
            raise UserError(
                f"cannot save a checkpoint of step {step} in {self._folder.path}: {_reason(error)}; "
                "make room or repair the disk, then continue with --resume from the earlier checkpoint"
            ) from error

    def _settle(self) -> None:
        """Drop older checkpoints, now that a newer one is written."""
        if is_first_host():
            # The new name must be on disk before older checkpoints are deleted.
            flush(self._folder.path)
            self._folder.drop_all_but(self._keep)

    def restore(self, like: Any) -> tuple[int, Any]:
        """The newest undamaged (step, state), with the structure, dtypes and shardings of `like`.

        Newer checkpoints that are damaged are named in a warning and renamed, so that their steps can be saved again.

        Raises UserError if all are damaged, or if the newest undamaged one does not fit, for example because the
        configuration changed between two runs.
        """
        steps, damaged = self._folder.steps(), dict[int, str]()
        if not steps:
            raise UserError(f"there is no checkpoint in {self._folder.path}")
        for step in steps:
            try:
                state = self._read(step, like)
            except DamagedError as error:
                damaged[step] = str(error)
            except MisfitError as error:
                raise UserError(
                    f"the checkpoint of step {step} in {self._folder.path} does not fit this configuration; "
                    "resume with the settings that the run was started with, or choose another --out"
                ) from error
            else:
                self._move_aside(damaged, step)
                self._tidy()
                return step, state
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"every checkpoint in {self._folder.path} is damaged ({reasons}): put a copy of one there, or move the "
            "folder away; then --resume begins at the first step"
        )

    def close(self) -> None:
        """Wait for what is still being written. Raises: UserError like `wait`."""
        self.wait()

    def _make_room(self, step: int) -> None:
        """Remove files that a killed process left, and rename what is in the place of `step`."""
        self._tidy()
        if is_first_host() and self._folder.of(step).exists():
            self._folder.move_aside(step)

    def _tidy(self) -> None:
        """Remove files that a killed process left; only the first call does so."""
        if is_first_host() and not self._is_tidy:
            self._folder.remove_leftovers()
        self._is_tidy = True

    def _move_aside(self, damaged: Mapping[int, str], good: int) -> None:
        for step, reason in damaged.items() if is_first_host() else ():
            try:
                aside = self._folder.move_aside(step)
            except OSError as error:
                raise UserError(f"cannot rename {self._folder.of(step)}: {error.strerror or error}") from error
            warnings.warn(
                f"the checkpoint of step {step} is damaged ({reason}): it is now {aside}, "
                f"and training goes on from step {good}",
                stacklevel=2,
            )
        # No host may save the step again before it is moved.
        all_hosts(True)

    def _read(self, step: int, like: Any) -> Any:
        """The state saved as `step`. Raises DamagedError, MisfitError."""
        wanted, problem, state, seal = _without_empty(like), None, None, None
        try:
            with quiet_orbax():
                seal = read_seal(self._folder.of(step))
                self._check(step, seal, wanted)
                state = self._read_tensors(step, wanted)
        except (DamagedError, MisfitError, MemoryError) as error:
            problem = error
        except Exception as error:  # orbax and tensorstore raise many kinds.
            problem = DamagedError(_reason(error))
        # All hosts must continue from the same checkpoint.
        if not all_hosts(problem is None):
            raise problem or DamagedError("another host of the pod cannot read it")
        if seal and tensors_digest(state) != seal["tensors"]:
            raise DamagedError("its contents are not those that were saved")
        return jax.tree.map(lambda x, y: y if x is None else x, state, like, is_leaf=lambda x: x is None)

    def _check(self, step: int, seal: Mapping[str, Any] | None, wanted: Any) -> None:
        """Raise DamagedError or MisfitError before anything of the state is read."""
        if seal:
            if seal["step"] != step:
                raise DamagedError(f"it is a copy of the checkpoint of step {seal['step']}")
            if seal["layout"] != layout_digest(wanted):
                raise MisfitError
            return
        # There is no seal: an old version saved the checkpoint, or the seal is lost.
        metadata = _checkpointer().metadata(self._folder.of(step))
        if metadata.custom_metadata or not metadata.commit_timestamp_nsecs:
            raise DamagedError(f"its {'seal' if metadata.custom_metadata else '_CHECKPOINT_METADATA'} is missing")
        if _shapes(metadata.item_metadata) not in (None, _shapes({"default": wanted})):
            raise MisfitError

    def _read_tensors(self, step: int, wanted: Any) -> Any:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        args = ocp.args.Composite(default=ocp.args.StandardRestore(abstract))
        return _checkpointer(alone=True).restore(self._folder.of(step), args=args)["default"]


def _checkpointer(alone: bool = False) -> ocp.Checkpointer:
    """alone: hosts do not wait for each other, so that no host hangs if another one fails."""
    options = ocp.options.MultiprocessingOptions()
    if alone and jax.process_count() > 1:
        host = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
        )
    handler = ocp.CompositeCheckpointHandler(default=ocp.StandardCheckpointHandler(multiprocessing_options=options))
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _shapes(tree: Any) -> list[tuple[str, tuple[int, ...]]] | None:
    """Path and shape of every leaf of a state, or of orbax's metadata of it; None if there are no leaves."""
    tree = tree["default"] if tree else None
    tree = getattr(tree, "tree", tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sorted((_plain(path), _shape(leaf)) for path, leaf in leaves) if leaves else None


def _shape(leaf: Any) -> tuple[int, ...]:
    # Typed keys are saved as their data.
    return tuple((as_numbers(leaf) if isinstance(leaf, jax.Array) else leaf).shape)


def _plain(path: Any) -> str:
    """A path in which named tuples, lists and dicts look the same, because orbax's metadata has only dicts."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _without_empty(state: Any) -> Any:
    """`state` with None for empty arrays (such as the embeddings of no tokens), which orbax does not save."""
    return jax.tree.map(lambda x: x if x.size else None, state)


def _reason(error: BaseException) -> str:
    """The reason for a failure in a few words. Messages of orbax can be pages long."""
    text = f"{error} {error.__cause__ or ''} {error.__context__ or ''}"
    if known := next((words for words in _FULL if words in text), None):
        return known
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{Path(str(error.filename)).name} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else f"{words[:160]}…"
