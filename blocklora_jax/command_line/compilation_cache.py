"""Commands keep compiled programs in the user's cache folder, so that only the first run of its kind compiles them.

This module does not import JAX.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from pathlib import Path

# A folder for the programs, or "off".
SETTING = "BLOCKLORA_COMPILATION_CACHE"
# JAX's own variable. If it is set, JAX obeys it, and nothing here does anything.
JAX_SETTING = "JAX_COMPILATION_CACHE_DIR"
_OFF = ("off", "none", "0", "false", "no")
# Bytes. With less free space, a program might be written only in part.
_LEAST_FREE = 2**30
# JAX's name of a program, so that no other file in a folder that the user chose is deleted.
_PROGRAM = f"*-{'[0-9a-f]' * 64}-cache"
# Bytes of programs that are kept from one run to the next: some hundred programs of a full-size model.
_MOST_KEPT = 4 * 2**30


def keep_compiled_programs() -> None:
    """Let JAX keep its compiled programs in the folder that the environment names, see `cache_folder`.

    A folder that cannot be written to, or a full disk, switches the cache off without a word: programs are compiled
    again, and nothing else changes.
    """
    # JAX warns if a program cannot be stored. It is compiled again the next time.
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache entry")
    if JAX_SETTING in os.environ:
        return
    folder = cache_folder()
    if folder is None or not _has_room(folder):
        return
    _drop_oldest(folder)
    if jax := sys.modules.get("jax"):
        # JAX has read its environment already. A folder that this process has set stays.
        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", str(folder))
    else:
        os.environ[JAX_SETTING] = str(folder)


def cache_folder() -> Path | None:
    """The folder for compiled programs: that of BLOCKLORA_COMPILATION_CACHE, else one in the user's cache folder.

    None if the variable is "off", or if there is no home folder.
    """
    setting = os.environ.get(SETTING, "")
    try:
        if setting:
            return None if setting.lower() in _OFF else Path(setting).expanduser().absolute()
        caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # By the XDG specification a relative path is ignored.
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "blocklora" / "xla"
    except RuntimeError:  # pathlib finds no home folder.
        return None


def _drop_oldest(folder: Path) -> None:
    """Delete the programs that were not read for the longest time, if there are more than `_MOST_KEPT` bytes of them.

    JAX's own limit needs a second file for each program, and stores nothing anymore if one of these is missing.
    """
    try:
        found = [(path, path.stat()) for path in folder.glob(_PROGRAM)]
    except OSError:  # for example, because another process deletes one of them now
        return
    kept = 0
    for path, state in sorted(found, key=lambda entry: entry[1].st_atime, reverse=True):
        kept += state.st_size
        if kept > _MOST_KEPT:
            with contextlib.suppress(OSError):
                path.unlink()


def _has_room(folder: Path) -> bool:
    """Whether files can be written to `folder`, which JAX creates later if it is missing."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK) and shutil.disk_usage(there).free >= _LEAST_FREE
    except OSError:
        return False
