"""The file that `--config` or `--concepts` names: by its path, or by the name of a shipped one (`ada`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_yaml_mapping
from train.concept.settings.old_names import OLD_CONFIGS

# In an installed package the files are in `train`; in a checkout they are beside it.
_FOLDERS = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")


def find_config(path: Path, flag: str = "--config") -> Path:
    """`path` if there is such a file, else the shipped configuration of that name.

    An old name of a shipped configuration gives the new one, and a line on stderr says so. flag: the flag with which
    the path was given, for messages.

    Raises: UserError for a name that is neither a file nor a shipped configuration.
    """
    if path.exists() and not path.is_dir():
        return path
    is_name = len(path.parts) == 1 and not path.suffix
    if new := OLD_CONFIGS.get(path.stem if path.suffix == ".yaml" else path.name):
        file = shipped_configs().get(new) if is_name else path.with_name(f"{new}.yaml")
        if file and file.is_file():
            print(f"{flag} {path} is now called {new if is_name else file}", file=sys.stderr)
            return file
    if not is_name:
        return path
    shipped = shipped_configs()
    if path.name not in shipped:
        kind = "list of concepts" if flag == "--concepts" else "configuration"
        fitting = ", ".join(_fitting(shipped, flag))
        raise UserError(f"{flag} {path} is neither a file nor a shipped {kind} ({fitting})")
    return shipped[path.name]


def shipped_configs() -> dict[str, Path]:
    """The configurations and lists of concepts that come with the package, by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def lists_concepts(values: Mapping[str, Any]) -> bool:
    """Whether a file's content is a list of concepts: each key is a concept's name, and its value a mapping."""
    return bool(values) and all(isinstance(value, Mapping) for value in values.values())


def _fitting(shipped: Mapping[str, Path], flag: str) -> list[str]:
    """The names of the shipped files that `flag` accepts."""
    return [name for name, path in shipped.items() if lists_concepts(read_yaml_mapping(path)) == (flag == "--concepts")]
