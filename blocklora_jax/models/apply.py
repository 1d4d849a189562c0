"""Running a Flax model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn


def apply_model(module: nn.Module, params: Mapping[str, Any], *inputs: Any, method: str | None = None) -> Any:
    """The output of `module` for `inputs`: an array, or a tuple of arrays."""
    return module.apply({"params": params}, *inputs, method=method)
