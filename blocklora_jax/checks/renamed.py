"""Old names of renamed Python objects, and old arguments. They work for one release and warn with the new name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
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


def takes_pair(method: Callable[..., Any]) -> Callable[..., Any]:
    """Until 0.3: lets a base model's method take `params=` and `adapters=`, with a DeprecationWarning."""

    @wraps(method)
    def with_pair(self: Any, *args: Any, params: Any = None, adapters: Sequence[Any] = (), **kw: Any):
        if params is None and not adapters:
            return method(self, *args, **kw)
        warnings.warn(
            f"{method.__name__}(params=…, adapters=…) will be removed in version 0.3: use sd.with_adapters(adapters)"
            ", or sd.with_params(params, adapters)",
            DeprecationWarning,
            stacklevel=2,
        )
        model = self.with_params(self.params if params is None else params, adapters)
        return method(model, *args, **kw)

    return with_pair
