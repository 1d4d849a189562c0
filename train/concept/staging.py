"""Runs whose inputs or run folder are in an object store: local copies of them, which training reads and writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import remove_temporaries
from blocklora_jax.storage.address import is_remote, local_name, url_of
from blocklora_jax.storage.copies import clear, download, local_copy, staging_folder
from blocklora_jax.storage.lease import take_lease
from blocklora_jax.storage.mirror import Mirror
from blocklora_jax.storage.objects import ObjectFolder
from train.concept.config import ConceptConfig

# Settings that name a file or folder that training reads.
_INPUTS = ("images", "other_images", "class_images", "model", "basis", "negative_tokens")
_WRITER, _SILENCE = ".writer", 300.0  # the lease of the run folder, and after how many seconds it is free
PATIENCE = 900.0  # seconds that the end of a run waits for what is not uploaded yet


def stage_inputs(config: ConceptConfig, names: Sequence[str] = _INPUTS) -> ConceptConfig:
    """`config` with local copies of what it reads from object stores. Files that the run writes name the originals.

    names: of the settings whose files are fetched.
    Raises: UserError if something is not there.
    """
    settings = {name: value for name, value in config.settings().items() if name in names}
    staged = {name: staged_input(value) for name, value in settings.items()}
    return config.with_settings(**staged) if staged != settings else config


def staged_input(value: Any) -> Any:
    """A path or text, or a tuple of them, with local copies in the place of addresses; other values unchanged."""
    if isinstance(value, tuple):
        return tuple(map(staged_input, value))
    return local_copy(value) if isinstance(value, (str, Path)) else value


def staged_path(out: Path) -> Path:
    """Where a run folder of an object store is written on this machine; other folders are given back."""
    return staging_folder() / "runs" / local_name(url_of(out)) if is_remote(out) else out


@contextmanager
def staged_output(out: Path) -> Iterator[Path]:
    """A folder to write a run into. If `out` is in an object store, it holds what is there, and is uploaded.

    Uploading goes on while the block runs, and is waited for at its end, at most `PATIENCE` seconds. Only one process
    at a time writes a run folder.

    Raises: UserError if another process writes there, or if not all can be uploaded.
    """
    if not is_remote(out):
        yield out
        return
    remote, local = ObjectFolder(str(out)), staged_path(out)
    lease = take_lease(remote, _WRITER, _SILENCE)
    if lease is None:
        raise UserError(f"another process writes {remote}, or ended a moment ago: wait for it, or choose another --out")
    lease.renew_until_released(lambda: _end(f"another process took over {remote}"))
    try:
        clear(local)
        download(remote, local, leave=(_WRITER,))
        with mirrored(local, remote):
            yield local
    finally:
        lease.release("done")


@contextmanager
def mirrored(local: Path, remote: ObjectFolder, below: Sequence[str] = ("",)) -> Iterator[None]:
    """Upload `local` (the parts `below`) while the block runs and at its end. Its errors name the remote folder.

    Raises: UserError if not all is uploaded in time.
    """
    mirror = Mirror(local, remote, below)
    mirror.start()
    try:
        yield
    except UserError as error:
        _finish_after_error(mirror)
        raise UserError(str(error).replace(str(local), str(remote))) from error
    except BaseException:
        # A signal: the checkpoint that it caused is what the next run begins with.
        _finish_after_error(mirror)
        raise
    mirror.finish(PATIENCE)


def _finish_after_error(mirror: Mirror) -> None:
    try:
        mirror.finish(PATIENCE)
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)


def _end(reason: str) -> None:
    remove_temporaries()
    os.write(2, f"\nerror: {reason}, because this one was silent too long\n".encode())
    os._exit(2)
