"""Old names of renamed Python objects. They work for one release and warn with the new name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def old_names(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for the module named `module`. renamed: {old name: new name}, both in that module.

    >>> __getattr__ = old_names("math", {"squareroot": "sqrt"})
    >>> __getattr__("squareroot")(4.0)
    2.0
    """

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = renamed[name]
        warnings.warn(
            f"{module}.{name} is now {module}.{new}; the old name will be removed in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(module), new)

    return get
