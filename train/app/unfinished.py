"""Runs in the library that were interrupted: which there are, and their settings."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from train.app.library import FILE, Library
from train.concept.config import ConceptConfig, parse_args, settings_as_flags
from train.concept.input_record import without_records
from train.concept.settings.flat import with_later
from train.concept.settings.old_names import from_file_keys


def runs_to_continue(library: Library) -> list[Path]:
    """The folders of runs that have begun and are not finished."""
    return [each for each in library.folders() if (each / "config.json").is_file() and not (each / FILE).exists()]


def read_run(folder: Path) -> ConceptConfig:
    """The settings of the run in a folder.

    Raises: UserError if they cannot be read.
    """
    path = folder / "config.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings of a run")
    try:
        return parse_args(settings_as_flags(from_file_keys(with_later(without_records(values)))))
    except SystemExit as error:  # tyro has printed the reason.
        raise UserError(f"{path} has settings that this version cannot read") from error
