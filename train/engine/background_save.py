"""Writes a checkpoint while training goes on. orbax copies the state to the host, and its thread writes the files."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

# Seconds. A state has megabytes, so a disk that takes longer is out of order.
PATIENCE = 600.0


def own_copy(state: Any) -> Any:
    """`state` in arrays that nobody else changes or gives away.

    On other devices orbax copies to the host before it returns. On the CPU it would read the arrays themselves, which
    the next step may reuse for its results.
    """
    return jax.tree.map(jnp.copy, state) if jax.default_backend() == "cpu" else state


class BackgroundSave:
    """A checkpoint that is being written.

    Raises: what orbax raises if the state cannot be copied, or the folder cannot be made.
    """

    def __init__(
        self, handler: ocp.CompositeCheckpointHandler, place: Path, args: Any, custom_metadata: dict[str, Any]
    ) -> None:
        options = ocp.options.AsyncOptions(timeout_secs=int(PATIENCE))
        self._checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        self._checkpointer.save(place, args=args, custom_metadata=custom_metadata)
        self._problem: BaseException | None = None
        self._waiter = threading.Thread(target=self._wait, daemon=True, name="checkpoint")
        self._waiter.start()

    def wait(self, patience: float) -> None:
        """Return when the checkpoint has its name. Raises: what orbax raised; TimeoutError after `patience` seconds."""
        self._waiter.join(patience)
        if self._waiter.is_alive():
            raise TimeoutError(f"writing takes longer than {patience:.0f} seconds")
        if self._problem is not None:
            raise self._problem

    def _wait(self) -> None:
        try:
            self._checkpointer.wait_until_finished()
        except BaseException as error:  # It is raised by `wait`.
            self._problem = error
        with suppress(Exception):
            # Another thread may still be writing the metadata, also after a failure.
            self._checkpointer.close()
