"""Old names of Python objects that were renamed: they work for one release and say the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def old_names(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for the module of that name. renamed: {old name: new name}, both of that module.

    >>> __getattr__ = old_names("math", {"squareroot": "sqrt"})
    >>> __getattr__("squareroot")(4.0)
    2.0
    """

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = renamed[name]
        warnings.warn(
            f"{module}.{name} is now {module}.{new}; the old name goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(module), new)

    return get
