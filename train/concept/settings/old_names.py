"""Settings that were renamed. Flags and YAML files may use the old names for one release.

The keys in config.json and in adapters do not change.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from blocklora_jax.errors import UserError

# Old name: new name. "group.name" is a setting in a group.
OLD_NAMES = {
    "strangers": "negative_tokens",
    "foreign_spread": "negative_spread",
    "random_shares.foreign": "random_shares.negative",
}
# Shipped configuration files, without .yaml.
OLD_CONFIGS = {"wide": "one_block", "fused": "one_block_fit", "quiet": "text_basis"}
_FILE_KEYS = {new: old for old, new in OLD_NAMES.items()}


def rename_flags(args: Sequence[str]) -> list[str]:
    """The command line `args` with new names in place of old ones. Each old name is reported on stderr."""
    return [_rename_flag(arg) for arg in args]


def _rename_flag(arg: str) -> str:
    flag, equals, value = arg.partition("=")
    new = OLD_NAMES.get(flag.removeprefix("--").replace("-", "_")) if flag.startswith("--") else None
    if new is None:
        return arg
    new_flag = f"--{new.replace('_', '-')}"
    _report(flag, new_flag)
    return f"{new_flag}{equals}{value}"


def rename_settings(where: str, settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """`settings` with new names in place of old ones. Each old name is reported on stderr.

    where: the file, for messages. group: "", or the name of a group of settings and a dot.

    Raises: UserError if a setting is given under its old and its new name.
    """
    renamed: dict[str, Any] = {}
    for name, value in settings.items():
        path = group + str(name).replace("-", "_")
        new = OLD_NAMES[path].removeprefix(group) if path in OLD_NAMES else name
        if new != name:
            _report(f"{where}: {name}", new)
            if new in settings or new.replace("_", "-") in settings:
                raise UserError(f"{where}: {name} is the old name of {new}, which is given too: leave out {name}")
        renamed[new] = rename_settings(f"{where}: {new}", value, f"{path}.") if isinstance(value, dict) else value
    return renamed


def to_file_keys(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """`settings` with the keys that config.json and adapters use, in the same order."""
    keys = {name: _FILE_KEYS.get(f"{group}{name}", f"{group}{name}").removeprefix(group) for name in settings}
    return {
        key: to_file_keys(settings[name], f"{name}.") if isinstance(settings[name], dict) else settings[name]
        for name, key in keys.items()
    }


def from_file_keys(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """`settings` of a file, by their names of today; the inverse of `to_file_keys`."""
    names = {key: OLD_NAMES.get(f"{group}{key}", f"{group}{key}").removeprefix(group) for key in settings}
    return {
        name: from_file_keys(settings[key], f"{key}.") if isinstance(settings[key], dict) else settings[key]
        for key, name in names.items()
    }


def _report(old: str, new: str) -> None:
    print(f"{old} is now called {new}", file=sys.stderr)
