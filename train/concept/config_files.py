"""Which file `--config` or `--concepts` means: a path, or the name of a shipped one, such as `ada`."""

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

    A path with the old name of a shipped configuration stands for the new one; this is reported on stderr.
    flag: where the path was given.

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
        raise UserError(f"{flag} {path} is no file, and no shipped {kind}: {', '.join(_fitting(shipped, flag))}")
    return shipped[path.name]


def shipped_configs() -> dict[str, Path]:
    """The configurations and lists of concepts that come with the package, by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def lists_concepts(values: Mapping[str, Any]) -> bool:
    """Whether what a file holds is for `--concepts`: each of its keys names a concept, whose settings are a mapping."""
    return bool(values) and all(isinstance(value, Mapping) for value in values.values())


def _fitting(shipped: Mapping[str, Path], flag: str) -> list[str]:
    """The names of those shipped files that `flag` takes."""
    return [name for name, path in shipped.items() if lists_concepts(read_yaml_mapping(path)) == (flag == "--concepts")]
